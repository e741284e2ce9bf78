"""``recursivemix transfer`` as a person types it: runs, resuming, predictions, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from recursivemix.cli import main
from recursivemix.data.formats.scenes import scenes_with_maps, scenes_with_objects
from recursivemix.models.trained import load
from recursivemix.tasks import backbone
from recursivemix.tasks.backbone_weights import load_backbone
from recursivemix.tasks.detection.names import BOX_DETECTORS
from recursivemix.tasks.segmentation.names import HEADS

SHORT = [
    "--batch-size", "4", "--channels", "16", "--device", "cpu", "--precision", "32",
    "--trainer.limit-train-batches", "2", "--trainer.limit-val-batches", "2",
    "--trainer.enable-progress-bar", "false",
]  # fmt: skip
TASKS = {
    "detection": (["--depth", "1"], "ap"),
    "instance": ([], "segm_ap"),
    "segmentation": ([], "miou"),
}


def run(task, out, *arguments, epochs=1):
    words = ["transfer", task, "--out", str(out), "--epochs", str(epochs), *SHORT]
    return main([*words, *TASKS[task][0], *arguments])


def weights(folder):
    return load(folder / "checkpoints" / "last.ckpt").network.state_dict()


@pytest.mark.parametrize("task", TASKS)
def test_a_run_and_its_predictions(task, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(task, out) == 0
    told = capsys.readouterr().out
    assert "backbone: resnet10t, random weights" in told
    record = json.loads((out / "record.json").read_text())
    assert record["kind"] == f"transfer {task}"
    assert record["score"] == TASKS[task][1]
    assert record["data"]["evaluation_images"] == 8
    assert record["metrics"][record["score"]] == record["score_last"]
    assert record["seed"] == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["channels"] == 16
    with Image.open(out / "predictions.png") as picture:
        assert picture.size[0] > 600
    # What the checkpoint predicts, for other programs.
    images = tmp_path / "images"
    images.mkdir()
    for i in range(2):
        pixels = scenes_with_objects().evaluation[i][0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(images / f"scene{i}.png")
    seen = tmp_path / "seen"
    checkpoint = str(out / "checkpoints" / "last.ckpt")
    words = ["transfer", "predict", "--checkpoint", checkpoint, "--images", str(images)]
    assert main([*words, "--out", str(seen), "--device", "cpu"]) == 0
    assert len(list((seen / "pictures").glob("*.png"))) == 2
    if task == "segmentation":
        classes = scenes_with_maps().classes
        assert (seen / "maps" / "classes.txt").read_text().split() == list(classes)
        with Image.open(seen / "maps" / "scene1.png") as found:
            assert found.size == (128, 128)
            low, high = found.getextrema()
        assert 1 <= low <= high <= len(classes)
    else:
        found = json.loads((seen / "detections.json").read_text())
        assert [image["file_name"] for image in found["images"]] == ["scene0.png", "scene1.png"]
        assert [c["name"] for c in found["categories"]] == list(scenes_with_objects().classes)
        for one in found["annotations"]:
            assert one["image_id"] in (1, 2)
            assert 0 <= one["score"] <= 1
            assert ("segmentation" in one) == (task == "instance")
    assert main([*words, "--out", str(seen)]) == 2  # not over what is there

    words = ["evaluate", "--checkpoint", checkpoint, "--device", "cpu", "--out", str(tmp_path / "e.json")]
    assert main(words) == 0
    evaluation = json.loads((tmp_path / "e.json").read_text())
    assert (evaluation["task"], evaluation["score"]) == (task, TASKS[task][1])
    assert evaluation["metrics"].keys() == record["metrics"].keys()
    assert evaluation["per_class"].keys() == record["per_class"].keys()


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("detection", ["--mixer", "recursivemix"]),
        ("detection", ["--detector", "gfl", "--ema-decay", "0.9"]),
        ("segmentation", ["--mixer", "recursivemix", "--mixer-options.across-epochs", "true"]),
        ("segmentation", ["--head", "pspnet", "--ema-decay", "0.9"]),
    ],
)
def test_resumed_is_uninterrupted(task, more, tmp_path, monkeypatch, without_picture):
    """Bit for bit on a CPU: weights, scores and the mixer's state. Nor do checkpoints change a run."""
    from recursivemix.cli import running

    monkeypatch.setattr(running, "write_predictions", lambda *arguments: None)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(task, whole, *more, "--checkpoint-every", "1", epochs=2) == 0
    assert torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert stop_after(3, task, stopped, *more, epochs=2) == 130
    assert main(["transfer", task, "--resume", str(stopped)]) == 0
    first, second = weights(whole), weights(stopped)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    rows = [json.loads((f / "record.json").read_text())["epochs"] for f in (whole, stopped)]
    for row in (*rows[0], *rows[1]):
        del row["seconds"]
    assert rows[0] == rows[1]


def stop_after(steps, task, out, *arguments, epochs):
    """A run that is asked to stop, as by Ctrl-C, when so many steps are done."""
    from recursivemix.training import checkpoints

    original = checkpoints.Checkpoints.on_train_batch_end

    def stop(self, trainer, *rest):
        if trainer.global_step == steps:
            self._signal = 2
        return original(self, trainer, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "on_train_batch_end", stop)
        return run(task, out, *arguments, epochs=epochs)


def test_a_run_killed_before_its_picture_goes_on(tmp_path, capsys):
    """The record is written last: no folder that has one lacks the picture."""
    from recursivemix.cli import running

    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "write_predictions", interrupt)
        assert run("segmentation", out) == 130
    assert f"resume with: recursivemix transfer segmentation --resume {out}" in capsys.readouterr().err
    assert not (out / "record.json").exists()
    assert main(["transfer", "segmentation", "--resume", str(out)]) == 0
    assert (out / "record.json").is_file()
    assert (out / "predictions.png").is_file()


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_backbone_of_our_own(checkpoint, tmp_path, capsys):
    assert run("detection", tmp_path / "run", "--backbone", str(checkpoint)) == 0
    assert "keys match" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["backbone"]["keys_matched"] == record["backbone"]["keys"] > 50
    assert record["backbone"]["pretrained"]
    trained = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert trained.settings["lr"] == 2e-4
    assert (trained.settings["norm"], trained.settings["frozen_stages"]) == ("statistics", 0)


def test_a_run_goes_on_without_the_file_of_its_backbone(tmp_path):
    weights_file = tmp_path / "weights.pth"
    torch.save(load_backbone("random", "resnet10t").backbone.network.state_dict(), weights_file)
    backbone = ["--backbone", str(weights_file), "--model", "resnet10t"]
    assert stop_after(1, "detection", tmp_path / "run", *backbone, epochs=1) == 130
    weights_file.unlink()
    assert main(["transfer", "detection", "--resume", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["backbone"]["source"] == str(weights_file)
    assert record["resumed_at_steps"] == [1]


def test_the_last_epoch_is_evaluated(tmp_path):
    assert run("detection", tmp_path / "run", "--evaluate-every", "2", epochs=3) == 0
    rows = json.loads((tmp_path / "run" / "record.json").read_text())["epochs"]
    assert [row.get("ap") is not None for row in rows] == [False, True, True]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_broken_annotation_is_told_in_one_line(workers, tmp_path, capsys):
    """One that shows when its image is read: the sizes differ."""
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(tmp_path / "data" / split / "a.png")
        about = {"id": 8, "file_name": "a.png", "width": 64, "height": 99}
        found = {"id": 1, "image_id": 8, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}
        content = {"images": [about], "annotations": [found], "categories": [{"id": 1, "name": "cat"}]}
        (tmp_path / "data" / "annotations" / f"{split}.json").write_text(json.dumps(content))
    words = ["--data", str(tmp_path / "data"), "--workers", workers, "--image-size", "[64]"]
    assert run("detection", tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert "image 8 is annotated as 64x99" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bad_images_are_left_out_and_listed(tmp_path, capsys):
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (64, 64), (50 * i, 9, 9)).save(tmp_path / "data/images" / split / f"{i}.png")
            Image.new("L", (64, 64), 1 + i % 2).save(tmp_path / "data/annotations" / split / f"{i}.png")
    broken = tmp_path / "data" / "annotations" / "training" / "3.png"
    broken.write_bytes(b"no image")
    words = ["--data", str(tmp_path / "data"), "--workers", "0", "--image-size", "64"]
    assert run("segmentation", tmp_path / "run", *words) == 2
    assert "3.png" in capsys.readouterr().err
    assert run("segmentation", tmp_path / "run", *words, "--skip-bad") == 0
    assert "left out 1 unreadable files" in capsys.readouterr().out
    assert str(broken) in (tmp_path / "run" / "skipped.txt").read_text()
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["data"]["train_images"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detection", "--backbone", "nothing.pth"], "there is no file"),
        (["detection", "--data", "nowhere"], "there is no folder nowhere"),
        (["detection", "--mixer-options.prob", "0.5"], "need --mixer recursivemix"),
        (["detection", "--mixer", "recursivemix", "--mixer-options.area", "1"], "it takes max_area, prob"),
        (
            ["detection", "--detector", "fcos", "--channels", "48"],
            "--channels must be a multiple of 32 from 64",
        ),
        (["detection", "--detector", "fcos", "--channels", "32"], "from 64 on for --detector fcos, got 32"),
        (["detection", "--detector", "gfl", "--depth", "0"], "--depth must be at least 1"),
        (["detection", "--detector", "fcos", "--depth", "4"], "--depth is for --detector atss and gfl"),
        (["detection", "--image-size", "0"], "--image-size must be at least 1"),
        (["segmentation", "--image-size", "0"], "--image-size must be at least 1"),
        (["segmentation", "--scales", "[2,1]"], "--scales must be two numbers"),
        (["segmentation", "--aux-weight", "-1"], "--aux-weight must be at least 0"),
        (["detection", "--schedule", "step"], "belong together"),
        (["detection", "--lr", "0"], "--lr must be > 0"),
        (["detection", "--frozen-stages", "9"], "0 to 4"),
        (["segmentation", "--batch-size", "1"], "batch of one"),
        (["segmentation", "--norm", "sync", "--device", "cpu"], "needs GPUs"),
        (["detection", "--recipe", "cifar100-resnet18"], "is for another command"),
        (
            ["predict", "--checkpoint", "a.ckpt", "--images", "nowhere", "--out", "o"],
            "there is no checkpoint a.ckpt",
        ),
    ],
)
def test_what_is_refused(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["transfer", *arguments]) == 2
    *notice, error = capsys.readouterr().err.splitlines()
    assert words in error
    old = ["recursivemix transfer predict is now a part of recursivemix predict"]
    assert notice == (old if arguments[0] == "predict" else [])
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("task", "option", "registry"),
    [("detection", "--detector", BOX_DETECTORS), ("segmentation", "--head", HEADS)],
)
def test_choices_come_from_the_registries(task, option, registry, capsys):
    with pytest.raises(SystemExit):
        main(["transfer", task, option, "none_such"])
    assert f"{option} must be one of {', '.join(registry)}, got none_such" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["transfer", task, "--help"])
    printed = capsys.readouterr().out
    choices = printed[printed.index(f"{option} ") :][:300]
    assert all(name in choices for name in registry)


def test_a_classifier_is_no_detector(save_trained, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "a.png")
    checkpoint = str(save_trained())
    images = ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert main(["transfer", "predict", "--checkpoint", checkpoint, *images]) == 2
    assert "is a checkpoint of classification" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--probes", "all"], "for classification only: --probes; "),
        (["--images", "8", "--seed", "1"], "for classification only: --images, --seed; "),
        ([], "was not trained on the sample scenes: name its images with --data DIR"),
        (["--data", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_what_evaluate_refuses_of_a_detector(options, message, save_trained, capsys):
    assert main(["evaluate", "--checkpoint", str(save_trained(task="detection")), *options]) == 2
    assert message in capsys.readouterr().err


def test_evaluate_needs_the_classes_and_the_settings_of_the_training(save_trained, capsys):
    data = {"category_ids": [7, 9], "name": "digit scenes"}
    other = str(save_trained(task="detection", data=data))
    assert main(["evaluate", "--checkpoint", other]) == 2
    assert "was trained on 2 classes (cat, =dog, ...), the data has 10" in capsys.readouterr().err
    classes = list(scenes_with_objects().classes)
    malformed = str(save_trained(task="detection", data=data, classes=classes, batch_size="many"))
    assert main(["evaluate", "--checkpoint", malformed]) == 2
    assert "cannot be used: its batch_size is 'many': give --batch-size" in capsys.readouterr().err


def test_evaluate_needs_nothing_of_the_training_but_the_network(save_trained, monkeypatch):
    """Neither GPUs for --norm sync nor the package of a logger, and only one network."""
    data, classes = {"name": "digit scenes"}, list(scenes_with_maps().classes)
    training = {"norm": "sync", "sync_batchnorm": True, "loggers": ["nowhere"], "batch_size": 64}
    checkpoint = save_trained(task="segmentation", data=data, classes=classes, **training)
    made, create = [], backbone.create_model
    monkeypatch.setattr(backbone, "create_model", lambda *a, **o: made.append(a) or create(*a, **o))
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--device", "cpu"]) == 0
    assert len(made) == 1


def test_label_maps_without_a_label_have_no_score(tmp_path, capsys):
    for split in ("training", "validation"):
        for kind, image in (
            ("images", Image.new("RGB", (32, 32))),
            ("annotations", Image.new("L", (32, 32))),
        ):
            (tmp_path / kind / split).mkdir(parents=True)
            for i in range(4):
                if split == "training" and kind == "annotations":
                    image.putpixel((i, 0), 1 + i % 2)
                image.save(tmp_path / kind / split / f"{i}.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    words = ["--data", str(tmp_path), "--image-size", "32", "--workers", "0"]
    assert run("segmentation", tmp_path / "run", *words) == 0
    told = capsys.readouterr().out
    assert "nan" not in told
    assert "nothing is annotated in 4 images" in " ".join(told.split())
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["score_last"], record["score_best"]) == (None, None)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_another_command_is_not_resumed(task, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["transfer", task, "--print-config"])
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    names = {"recipe", "resume", "resume_changed", "trust_config"}  # not in the file of a run
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    settings = {name: value for name, value in settings.items() if name not in names}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    for command in ("fit", *(f"transfer {other}" for other in TASKS if other != task)):
        assert main([*command.split(), "--resume", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path} is not a run of recursivemix {command}, but of transfer {task}\n" in error
