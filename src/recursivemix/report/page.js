"use strict";
// Draw every figure in the page's own colours, light, dark or on paper, and show the methods that are ticked.
(() => {
  const plots = [...document.querySelectorAll(".plot")];
  const figures = plots.map((plot) => JSON.parse(plot.nextElementSibling.textContent));
  const options = { displaylogo: false, displayModeBar: false, responsive: true, scrollZoom: false };
  const hidden = new Set();
  let width; // of paper; on a screen, what there is

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function dressed(figure) {
    const [ink, line] = [colour("--ink"), colour("--line")];
    const data = figure.data.map((trace) => {
      const own = trace.meta.line ? colour("--soft") : colour(`--c${trace.meta.colour}`);
      const dress = { ...trace, visible: !hidden.has(trace.meta.label) };
      dress.line = { ...trace.line, color: own };
      dress.marker = { ...trace.marker, color: own };
      if (trace.meta.line) dress.line = { color: own, width: 1, dash: "dot" };
      if (trace.meta.band) {
        dress.line = { width: 0, color: own };
        dress.fillcolor = `${own}26`;
      }
      return dress;
    });
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: ink, zerolinewidth: 2 };
    const layout = {
      ...figure.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif", size: 13 },
      xaxis: { ...figure.layout.xaxis, ...axis },
      yaxis: { ...figure.layout.yaxis, ...axis },
    };
    return width ? [data, { ...layout, width, autosize: false }] : [data, { ...layout, autosize: true }];
  }

  const draw = () => Promise.all(plots.map((plot, i) => Plotly.react(plot, ...dressed(figures[i]), options)));

  document.querySelectorAll("[data-label]").forEach((box) => {
    box.addEventListener("change", () => {
      hidden[box.checked ? "delete" : "add"](box.dataset.label);
      draw();
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  const paper = (on) => {
    document.documentElement.classList.toggle("paper", on);
    width = on ? 640 : undefined;
    draw();
  };
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
  draw().then(() => { document.documentElement.dataset.drawn = plots.length; });
})();
