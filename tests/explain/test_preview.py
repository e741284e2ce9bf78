"""Pictures of mixed batches: what they say is what was mixed, for every mixer and annotation."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from recursivemix.cli import main
from recursivemix.data.images import denormalise
from recursivemix.explain.batches import first_batches, open_images
from recursivemix.explain.captions import two_lines
from recursivemix.explain.mixed_cells import mixed_cell, mixed_steps
from recursivemix.explain.preview import preview
from recursivemix.explain.sources import SourceTracker
from recursivemix.mixing import MIXERS, RecursiveMix
from recursivemix.report.cells import as_bytes
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.prepare import prepare


def size_of(path):
    with Image.open(path) as image:
        return image.size


def mixed_columns(tracker, data, steps, samples, seed):
    """The first cells of the first batches."""
    batches = itertools.islice(first_batches(data, tracker.batch_size, seed), steps)
    columns = []
    for step in mixed_steps(tracker, batches):
        images = step.composition.batch.images[:samples]
        pictures = as_bytes(denormalise(images, data.mean, data.std))
        columns.append([mixed_cell(step, i, p, data.classes) for i, p in enumerate(pictures)])
    return columns


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer(mixer, tmp_path):
    out = tmp_path / "p.png"
    model = "vit_tiny_patch16_224" if mixer == "transmix" else "resnet20"
    preview(dataset="digits", mixer=mixer, model=model, steps=3, samples=2, out=out)
    width, height = size_of(out)
    assert width > 400
    assert height > 300


@pytest.mark.parametrize("task", ["detection", "instance", "segmentation"])
@pytest.mark.parametrize("mixer", ["none", "recursivemix"])
def test_every_task(task, mixer, tmp_path):
    out = tmp_path / "p.html"
    preview(task=task, mixer=mixer, steps=3, samples=2, out=out)
    html = out.read_text()
    assert html.count('class="picture"') == 6
    found = re.findall(r"lam (\d\.\d{3})", html)
    assert "1.000" in found
    assert (set(found) == {"1.000"}) == (mixer == "none")
    # The legend has the colours of the classes that are drawn.
    assert re.search(r'<li><span style="background:#[0-9a-f]{6}"></span>class \w+</li>', html)


def test_cells_tell_what_the_mixer_did():
    data = open_images(None, "digits", None, None, 0)
    tracker = SourceTracker("recursivemix", 4, 5, seed=7)
    columns = mixed_columns(tracker, data, 5, 2, 0)
    mixer = RecursiveMix(len(data.classes), seed=7)
    for column, (_, step) in zip(columns, first_batches(data, 4, 0), strict=False):
        batch = mixer(step.images, step.targets)
        mixer.remember(batch, torch.zeros(4, len(data.classes)))
        for i, cell in enumerate(column):
            times = cell.picture.shape[-1] // 32
            expected = as_bytes(denormalise(batch.images[i : i + 1], data.mean, data.std))[0]
            assert torch.equal(cell.picture[:, ::times, ::times], expected)
            assert f"lam {float(batch.lam[i]):.3f}" in cell.lines[2]
            if float(batch.lam[i]) < 1:
                assert cell.box == tuple(times * v for v in batch.boxes[i].tolist())
            by_class = torch.zeros(len(data.classes))
            for part in cell.parts:
                by_class[data.classes.index(part.name)] += part.label
            torch.testing.assert_close(by_class, batch.targets[i], atol=1e-6, rtol=0)
            assert [part.kind for part in cell.parts] == sorted(part.kind for part in cell.parts)
            visible = sum(part.pixels >= 0.001 for part in cell.parts)
            counted = sum(part.label >= 0.01 for part in cell.parts)
            assert cell.lines[3] == f"{visible} visible, {counted} in the label"


def test_these_are_the_batches_of_a_run(tmp_path):
    """With a run's batch size and seed, the images are the ones that it trains on."""
    config = ClassificationSettings(batch_size=24, device="cpu", seed=3, out=tmp_path / "run")
    run = prepare(config, [], {"enable_progress_bar": False}, None, False)
    run.loaders.trainer = run.trainer
    run.loaders.loading.fill_cache()
    trained = next(iter(run.loaders.train_dataloader()))
    _, mine = next(first_batches(open_images(None, "digits", None, None, 3), 24, 3))
    assert torch.equal(mine.targets, trained[1])
    assert torch.equal(mine.images, trained[0])


@pytest.mark.parametrize("size", [32, 48])
def test_the_images_have_the_size_of_the_network(size):
    data = replace(open_images(None, "digits", None, None, 0), image_size=size)
    _, batch = next(first_batches(data, 4, 0))
    assert batch.images.shape == (4, 3, size, size)


def test_an_epoch_that_ends_drops_the_history(image_root):
    data = open_images(image_root, None, None, None, 0)  # 36 images
    tracker = SourceTracker("recursivemix", 12, 5, seed=0)
    columns = mixed_columns(tracker, data, 5, 1, 0)
    assert [column[0].lines[2] == "lam 1.000" for column in columns][3]
    assert columns[3][0].box is None


def test_a_smaller_last_batch_leaves_places_empty(image_root, tmp_path):
    """36 images make batches of 16, 16 and 4."""
    for suffix in ("html", "png", "gif"):
        preview(image_root, steps=4, samples=5, batch_size=16, out=tmp_path / f"p.{suffix}")
    assert (tmp_path / "p.html").read_text().count('class="picture"') == 5 + 5 + 4 + 5


def test_a_gif_has_a_frame_a_step(tmp_path):
    out = preview(dataset="digits", steps=4, samples=2, out=tmp_path / "p.gif")
    with Image.open(out) as image:
        assert image.n_frames == 4
        assert image.info["loop"] == 0


def test_the_same_seed_gives_the_same_picture(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        preview(dataset="digits", steps=3, samples=2, seed=seed, out=tmp_path / f"{name}.html")
    a, b, c = ((tmp_path / f"{name}.html").read_text() for name in "abc")
    assert a == b != c


def test_names_that_are_markup(tmp_path, image_root):
    (image_root / "train" / "red").rename(image_root / "train" / "<b>$x_2$")
    (image_root / "val" / "red").rename(image_root / "val" / "<b>$x_2$")
    for suffix in ("html", "png"):
        preview(image_root, steps=3, samples=4, out=tmp_path / f"p.{suffix}")
    html = (tmp_path / "p.html").read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_photographs_without_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["preview", "--steps", "2", "--samples", "1", "--theme", "dark"]) == 0
    assert capsys.readouterr().out.strip() == "preview.png"
    with Image.open("preview.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (0x14, 0x17, 0x1C)


def test_names_stay_with_what_is_said_of_them():
    lines = two_lines([("a long name", "50%"), ("another name", "30%"), ("third", "20%"), ("fourth", "1%")])
    assert lines == ["a long name 50%,", "another name 30%, third 20% …"]
    assert two_lines([]) == ["", ""]
    assert two_lines([("first", "71%"), ("a-name-with-hyphens", "29%")]) == [
        "first 71%,", "a-name-with-hyphens 29%",
    ]  # fmt: skip
    assert two_lines([("\u732b" * 7, "71%"), ("\u732b" * 7, "29%")]) == [
        "\u732b" * 7 + " 71%,", "\u732b" * 7 + " 29%",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "--steps must be in 1..64"),
        (["--samples", "3", "--batch-size", "2"], "--batch-size must be at least --samples, 3"),
        (["--out", "p.bmp"], "--out must end in .png or .html or .gif"),
        (["--mixer", "cutmx"], "unknown mixer 'cutmx'"),
        (["--mixer-options.omga", "1"], "does not take these options"),
        (
            ["--task", "detection", "--mixer", "cutmix"],
            "--mixer must be none or recursivemix with --task detection",
        ),
        (["--task", "instance", "--image-size", "9"], "--image-size does not apply to --task instance"),
        (["--task", "detection", "--dataset", "digits"], "do not apply to --task detection"),
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--image-size", "64"], "need a folder of images"),
        (["--mixer", "transmix"], "class token"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["preview", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
