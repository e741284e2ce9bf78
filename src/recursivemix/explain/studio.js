"use strict";
// The settings are kept in the page's address after the #, so that a view can be bookmarked.
(() => {
  const form = document.getElementById("settings");
  const shown = document.getElementById("mixed");
  const message = document.getElementById("message");
  const remove = document.getElementById("remove");
  const sliders = JSON.parse(document.body.dataset.sliders);
  const mostBytes = Number(document.body.dataset.mostBytes);
  let image = "";
  let isDrawing = false;
  let isOutdated = false; // the settings have changed since the last request

  function say(text, error = false) {
    message.textContent = text;
    message.classList.toggle("error", error);
  }

  function query() {
    const values = new URLSearchParams();
    for (const input of form.elements) {
      if (!input.name) continue;
      values.set(input.name, input.type === "checkbox" ? String(input.checked) : input.value);
    }
    if (image) values.set("image", image);
    return values;
  }

  function updateControls() {
    const shownSliders = sliders[form.elements.mixer.value];
    form.querySelectorAll("[data-for]").forEach((label) => { label.hidden = !shownSliders.includes(label.dataset.for); });
    form.querySelectorAll("output").forEach((out) => {
      out.textContent = out.parentElement.querySelector("input").value;
    });
    const step = form.elements.step;
    document.getElementById("back").disabled = step.value === step.min;
    document.getElementById("next").disabled = step.value === step.max;
    remove.hidden = !image;
  }

  // One request at a time: the server has one worker, which would compute every step of a slider.
  async function draw() {
    updateControls();
    document.documentElement.dataset.drawn = "";
    isOutdated = true;
    if (isDrawing) return;
    isDrawing = true;
    while (isOutdated) {
      isOutdated = false;
      await show(query());
    }
    isDrawing = false;
    document.documentElement.dataset.drawn = "yes";
  }

  async function show(values) {
    try {
      const answer = await fetch(`mixed?${values}`);
      const text = await answer.text();
      if (answer.ok) {
        shown.innerHTML = text; // HTML from the server, with names escaped
        say(`Iteration ${values.get("step")} of ${values.get("mixer")}.`); // also read out by screen readers
        values.delete("image");
        history.replaceState(null, "", `#${values}`);
      } else {
        say(text, true);
      }
    } catch (error) {
      say("The studio does not answer. Check that it is still running.", true);
    }
  }

  async function send(file) {
    if (!file) return;
    if (file.size > mostBytes) {
      say(`${file.name} is too large: an image must have at most ${mostBytes / 2 ** 20} MiB.`, true);
      return;
    }
    say(`Sending ${file.name} ...`);
    try {
      const answer = await fetch("image", {
        method: "POST",
        headers: { "Content-Type": file.type || "application/octet-stream" },
        body: file,
      });
      if (!answer.ok) {
        say(await answer.text(), true);
        return;
      }
      image = (await answer.json()).image;
    } catch (error) {
      say("The image could not be sent. Check that the studio is still running.", true);
      return;
    }
    draw();
  }

  function move(by) {
    const step = form.elements.step;
    step.value = String(Number(step.value) + by);
    draw();
  }

  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const input = form.elements[name];
    if (!input) continue;
    if (input.type === "checkbox") input.checked = value === "true";
    else input.value = value;
  }
  form.addEventListener("input", (event) => { if (event.target.name) draw(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("back").addEventListener("click", () => move(-1));
  document.getElementById("next").addEventListener("click", () => move(1));
  document.getElementById("file").addEventListener("change", (event) => send(event.target.files[0]));
  remove.addEventListener("click", () => {
    image = "";
    document.getElementById("file").value = "";
    draw();
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    send(event.dataTransfer.files[0]);
  });
  draw();
})();
