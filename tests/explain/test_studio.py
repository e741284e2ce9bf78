"""The live page: what it shows, what it refuses, and a person who clicks through it in Chromium."""

import io
import json
import os
import shutil
import socket
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from by_hand import write_checkpoint
from PIL import Image
from served import ask, picture, served

from recursivemix.cli import main
from recursivemix.data.formats.digits import digits
from recursivemix.explain import studio as module
from recursivemix.explain.activation import load_named
from recursivemix.explain.studio import (
    KEPT,
    Settings,
    Studio,
    settings_from,
    sliders_of,
)
from recursivemix.mixing import MIXERS, create_mixer

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("RECURSIVEMIX_REQUIRE_BROWSER") == "1"
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A server on a free port, with a checkpoint."""
    path = write_checkpoint(
        tmp_path_factory.mktemp("studio") / "net.ckpt", size=32, classes=[str(k) for k in range(10)]
    )
    with served(Studio(digits(), trained=load_named([path], "cpu")[0])) as number:
        yield number


def test_the_page_and_its_parts(port):
    for path, kind in (("/", "text/html"), ("/studio.css", "text/css"), ("/studio.js", "text/javascript")):
        answer, text = ask(port, path)
        assert answer.status == 200
        assert answer.getheader("Content-Type").startswith(kind)
        assert "default-src 'none'" in answer.getheader("Content-Security-Policy")
        assert "http://" not in text.replace("http://www.w3.org", "")


def test_every_mixer_is_shown(port):
    for mixer in MIXERS:
        answer, text = ask(port, f"/mixed?mixer={mixer}&step=3")
        if mixer == "transmix":  # needs a transformer
            assert answer.status == 400
            assert "class token" in text
            assert "start the studio with a --model that has it" in text
            continue
        assert answer.status == 200, text
        assert text.count('class="picture"') == 3 * 3 + 3 * 4  # and of each sample four maps
        assert "iteration 3" in text


def test_a_step_is_a_function_of_its_settings(port):
    first = ask(port, "/mixed?step=6&seed=4")[1]
    ask(port, "/mixed?step=2&seed=5")
    assert ask(port, "/mixed?step=6&seed=4")[1] == first
    assert ask(port, "/mixed?step=6&seed=5")[1] != first


def test_a_dropped_image_shrinks_and_fades(port):
    _, text = ask(port, "/image", "POST", picture())
    name = json.loads(text)["image"]
    first = ask(port, f"/mixed?image={name}&step=1")[1]
    assert "your image 100%" in first
    second = ask(port, f"/mixed?image={name}&step=2")[1]
    assert second.count("your image") > first.count("your image")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("mixer=other", "mixer must be one of"),
        ("step=0", "step must be in [1, 24]"),
        ("step=x", "step must be a number"),
        ("prob=1.5", "prob must be in [0, 1]"),
        ("max_area=nan", "max_area must be in [0, 1]"),
        ("image=../../etc/passwd", "no longer kept"),
    ],
)
def test_settings_out_of_range_are_named(port, query, message):
    answer, text = ask(port, f"/mixed?{query}")
    assert answer.status == 400
    assert message in text
    assert len(text.splitlines()) == 1


def test_only_images_of_a_sensible_size(port, monkeypatch):
    assert ask(port, "/image", "POST", b"not an image")[0].status == 400
    assert ask(port, "/image", "POST", picture(kind="TIFF"))[0].status == 400
    assert ask(port, "/image", "POST", picture()[:60])[0].status == 400
    assert ask(port, "/image", "POST", b"")[0].status == 400
    monkeypatch.setattr(module, "MOST_PIXELS", 1000)
    answer, text = ask(port, "/image", "POST", picture())
    assert answer.status == 413
    assert "million pixels" in text


def test_a_bomb_is_not_decoded(port):
    """A few kilobytes that would be a hundred million pixels."""
    held = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(held, "PNG")
    assert ask(port, "/image", "POST", held.getvalue())[0].status == 413


def test_no_other_page_and_no_other_name(port):
    assert ask(port, "/", headers={"Host": "evil.example"})[0].status == 400
    headers = {"Origin": "https://evil.example"}
    assert ask(port, "/image", "POST", picture(), headers)[0].status == 403
    own = {"Origin": f"http://127.0.0.1:{port}"}
    assert ask(port, "/image", "POST", picture(), own)[0].status == 200


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/page.css", "/%2e%2e/%2e%2e/etc/passwd", "/static/x"]
)
def test_no_file_is_read(port, path):
    assert ask(port, path)[0].status == 404


def test_only_the_last_images_are_kept():
    studio = Studio(digits())
    names = [studio.keep(picture(colour=(k, 0, 0))) for k in range(KEPT + 2)]
    assert list(studio.uploads) == names[2:]
    with pytest.raises(ValueError, match="no longer kept"):
        studio.show(Settings(image=names[0]))
    assert all(kept.shape == (3, 32, 32) for kept in studio.uploads.values())


def test_sliders_are_arguments_of_the_mixer():
    assert sliders_of("recursivemix") == ["max_area"]
    assert sliders_of("cutmix") == ["alpha"]
    assert sliders_of("none") == []
    options = settings_from(
        {"mixer": "cutmix", "alpha": "2", "max_area": "0.1", "per_sample": "true"}
    ).options()
    assert options == {"prob": 1.0, "per_sample": True, "seed": 0, "alpha": 2.0}


def test_it_listens_on_loopback_alone(monkeypatch, capsys):
    """The command binds before anything is served; a port that is taken is one line."""
    import uvicorn

    seen = []

    def run(server, sockets):
        seen.append(sockets[0].getsockname()[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    assert main(["studio", "--dataset", "digits", "--port", "0"]) == 0
    assert seen == ["127.0.0.1"]
    assert "http://127.0.0.1:" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["studio", "--dataset", "digits", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be used" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["studio", "--host", "0.0.0.0"])


@pytest.mark.skipif(BROWSER is None and not REQUIRED, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_clicks_through(port, scheme, tmp_path):
    from playwright.sync_api import sync_playwright

    own = tmp_path / "own.png"
    own.write_bytes(picture())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = chromium.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 1000})
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda line: (
                faults.append(line.text)
                if line.type == "error" and "status of 400" not in line.text
                else None
            ),
        )

        def drawn():
            page.locator("html[data-drawn]:not([data-drawn=''])").wait_for(state="attached")

        def heads():
            return page.locator("#mixed table").first.locator("thead th").all_inner_texts()

        page.goto(f"http://127.0.0.1:{port}/")
        drawn()
        assert heads() == ["iteration 1"]
        assert page.locator("#back").is_disabled()
        for _ in range(5):
            page.click("#next")
            drawn()
        assert heads() == ["iteration 3", "iteration 4", "iteration 5", "iteration 6"]
        assert page.locator("#mixed .box").count() > 0
        assert page.locator("#mixed table").count() == 2  # and where the network looks
        page.click("#back")
        drawn()
        assert heads()[-1] == "iteration 5"
        # The mixer has its own sliders.
        assert page.locator("input[name=max_area]").is_visible()
        page.select_option("select[name=mixer]", "mixup")
        drawn()
        assert page.locator("input[name=max_area]").is_hidden()
        assert page.locator("input[name=alpha]").is_visible()
        page.select_option("select[name=mixer]", "recursivemix")
        page.locator("input[name=max_area]").fill("0")
        drawn()
        assert page.locator("#mixed .box").count() == 0
        page.locator("input[name=max_area]").fill("0.9")
        drawn()
        # An image of one's own, a broken one, and away with it.
        page.set_input_files("#file", str(own))
        page.locator("#mixed", has_text="your image").wait_for()
        drawn()
        page.click("#remove")
        drawn()
        dropped = page.evaluate_handle(
            """(bytes) => {
              const transfer = new DataTransfer();
              transfer.items.add(new File([new Uint8Array(bytes)], "own.png", { type: "image/png" }));
              return transfer;
            }""",
            list(own.read_bytes()),
        )
        page.dispatch_event("body", "drop", {"dataTransfer": dropped})
        page.locator("#mixed", has_text="your image").wait_for()
        drawn()
        page.set_input_files("#file", str(broken))
        page.locator("#message", has_text="must be an image").wait_for()
        page.click("#remove")
        drawn()
        assert "your image" not in page.inner_text("#mixed")
        # The address holds the settings.
        page.reload()
        drawn()
        assert page.locator("input[name=max_area]").input_value() == "0.9"
        assert heads()[-1] == "iteration 5"
        assert page.inner_text("#message").startswith("Iteration 5 of ")
        # A method that the network can't have says so and keeps the picture.
        page.select_option("select[name=mixer]", "transmix")
        drawn()
        assert "class token" in page.inner_text("#message")
        assert faults == []
        # Nothing runs off the page.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        chromium.close()


@pytest.mark.skipif(BROWSER is None and not REQUIRED, reason="no Chromium is installed")
def test_a_slider_sends_one_request_at_a_time(port):
    """The server computes every request, and one after the other: a moved slider would fill a queue."""
    from playwright.sync_api import sync_playwright

    sent = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("html[data-drawn]:not([data-drawn=''])").wait_for(state="attached")
        page.on("request", lambda request: sent.append(parse_qs(urlsplit(request.url).query)["step"][0]))
        page.evaluate(
            """() => {
              const slider = document.querySelector("input[name=step]");
              for (let step = 2; step <= 9; step++) {
                slider.value = step;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
              }
            }"""
        )
        page.locator("html[data-drawn]:not([data-drawn=''])").wait_for(state="attached")
        assert sent == ["2", "9"]
        assert page.locator("#mixed table").first.locator("thead th").last.inner_text() == "iteration 9"
        chromium.close()


def test_torch_s_global_stream_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Studio(digits()).show(Settings(mixer="manifoldmix", step=2))
    assert torch.equal(torch.rand(3), expected)


def test_a_largest_area_of_0_mixes_nothing():
    options = settings_from({"max_area": "0"}).options()
    assert options["prob"] == 0
    create_mixer("recursivemix", 3, **options)
