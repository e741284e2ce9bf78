"""The evaluation of a checkpoint: what is measured, selected, recorded and shown."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from recursivemix import load
from recursivemix.cli.dispatch import main
from recursivemix.data.open import open_images
from recursivemix.data.pack import write_pack
from recursivemix.data.settings import ImageSettings
from recursivemix.evaluation.accuracy import read_predictions
from recursivemix.evaluation.checkpoint import open_measured
from recursivemix.evaluation.corruption import SEVERITIES
from recursivemix.evaluation.evaluate import evaluate_checkpoint, evaluation_rows
from recursivemix.evaluation.multiple import four_in_one
from recursivemix.evaluation.probes import PROBES, compared_metrics, select_probes
from recursivemix.evaluation.subject import Predictor, Subject
from recursivemix.report.statistics import estimate
from samples import write_image_root

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def evaluation(checkpoint):
    return evaluate_checkpoint(checkpoint, images=40, precision="32", probes="all")


def figures(evaluation: dict) -> dict:
    """An evaluation without its times and the choice of probes."""
    return {k: v for k, v in evaluation.items() if k not in ("seconds", "probe_seconds", "probes")}


def test_an_evaluation_has_every_figure(trained, evaluation):
    assert evaluation["images"] == 360
    assert evaluation["subset"] == evaluation["corruption_images"] == 40
    assert evaluation["accuracy"]["top1"] == pytest.approx(trained.last, abs=1e-4)
    assert evaluation["nll"] == pytest.approx(trained.rows[-1]["val_loss"], abs=1e-5)
    assert evaluation["scale"]["top1"][0] == evaluation["occlusion"]["top1"][0]  # both unmodified
    assert set(evaluation["corruptions"]) == set(SEVERITIES)
    assert sum(evaluation["reliability"]["count"]) == 360
    assert evaluation["localisation"]["maps"] == 160
    assert evaluation["probes"] == list(evaluation["probe_seconds"]) == [probe.name for probe in PROBES]
    assert sum(evaluation["probe_seconds"].values()) <= evaluation["seconds"] + 0.1
    assert json.loads(json.dumps(evaluation)) == evaluation  # plain values


def test_an_evaluation_repeats_and_depends_on_the_seed(checkpoint, evaluation):
    again = evaluate_checkpoint(checkpoint, images=40, precision="32", probes="all")
    assert figures(again) == figures(evaluation)
    other = evaluate_checkpoint(checkpoint, images=40, precision="32", seed=1, probes="multiple")
    assert other["multiple"] != evaluation["multiple"]


def test_the_predictions_agree_with_the_figures(evaluation):
    kept = read_predictions(evaluation)
    assert kept is not None
    assert 100 * kept.correct.double().mean() == pytest.approx(evaluation["accuracy"]["top1"])
    assert -kept.probability.log().mean() == pytest.approx(evaluation["nll"], rel=1e-3)


@pytest.mark.parametrize(
    ("probes", "ran"),
    [
        ("scale", ["accuracy", "scale"]),
        ("localization, calibration", ["accuracy", "calibration", "localization"]),
    ],
)
def test_selected_probes_give_the_figures_of_all(checkpoint, evaluation, probes, ran):
    some = evaluate_checkpoint(checkpoint, images=40, precision="32", probes=probes)
    assert some["probes"] == ran
    assert figures(some).items() <= figures(evaluation).items()
    assert set(evaluation_rows(some)) < set(evaluation_rows(evaluation))


def test_the_subset_is_spread_over_the_split(checkpoint):
    trained = load(checkpoint)
    opened = open_measured(trained, None, None)
    predictor = Predictor(trained.network, opened, 64, "cpu", "32")
    empty = torch.zeros(0)
    subset = Subject(predictor, opened, empty, empty, subset_size=7, seed=0).subset
    every = opened.evaluation
    for place in range(7):
        index = place * len(every) // 7
        assert torch.equal(subset.images[place], every[index])
        assert subset.labels[place] == every.labels[index]


def test_the_default_probes_read_no_subset(checkpoint, monkeypatch):
    def fail(*arguments):
        raise AssertionError("read the subset")

    monkeypatch.setattr("recursivemix.evaluation.subject.stack", fail)
    default = evaluate_checkpoint(checkpoint, precision="32")
    assert default["probes"] == ["accuracy", "calibration"]


def test_unusable_settings_are_named(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="--images must be at least 1, got 0"):
        evaluate_checkpoint(checkpoint, images=0)
    with pytest.raises(ValueError, match="--batch-size must be at least 1, got -1"):
        evaluate_checkpoint(checkpoint, batch_size=-1)
    with pytest.raises(ValueError, match="nowhere"):
        evaluate_checkpoint(tmp_path / "nowhere.ckpt")
    with pytest.raises(ValueError, match=r"--probes must be all or some of accuracy,.*, got fog,haze"):
        evaluate_checkpoint(checkpoint, probes="fog,accuracy,haze")


def test_accuracy_always_runs_and_first():
    assert [probe.name for probe in select_probes("scale,corruption")] == [
        "accuracy",
        "corruption",
        "scale",
    ]
    assert select_probes("all") == list(PROBES)


def test_every_committed_evaluation_is_read_by_the_probes():
    """The figures that the probes read are those the comparison was made of."""
    comparison = json.loads((RESULTS / "compare" / "digits" / "comparison.json").read_text())
    for method in comparison["methods"]:
        for metric in compared_metrics():
            values = [metric.read(run["evaluation"]) for run in method["runs"]]
            if metric.name in method["estimates"]:
                assert estimate(values).mean == method["estimates"][metric.name]["mean"]
            else:
                assert values == [None] * len(values)
        record = method["runs"][0]["evaluation"]
        titles = [title for title, _ in evaluation_rows(record)]
        assert titles[0] == "Accuracy"
        assert len(titles) >= len(compared_metrics())
        for probe in PROBES:
            for curve in probe.curves:
                assert len(curve.read(record)) > 1
                assert curve.read({}) == []


def test_names_of_probes_metrics_and_curves_are_unique():
    metrics = [metric for probe in PROBES for metric in probe.metrics]
    for names in (
        [probe.name for probe in PROBES],
        [metric.name for metric in metrics],
        [metric.title for metric in metrics],
        [curve.title for probe in PROBES for curve in probe.curves],
    ):
        assert len(set(names)) == len(names)


def test_fewer_pictures_are_the_first_of_more():
    """Maps are made of the first of the pictures whose classes are searched for."""
    labels = torch.arange(6).repeat_interleave(5)
    images = torch.randint(256, (30, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    many, few = (four_in_one(images, labels, n, torch.Generator().manual_seed(3)) for n in (12, 5))
    assert torch.equal(many.images[:5], few.images)
    assert torch.equal(many.labels[:5], few.labels)


def test_images_of_several_labels(tmp_path):
    """Against scikit-learn, on the labels of the table and the logits of the network."""
    generator = torch.Generator().manual_seed(0)
    lines = ["image,label,split"]
    for i in range(36):
        pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{i}.png")
        names = [name for k, name in enumerate(("blue", "green", "red")) if (i >> k) & 1]
        lines.append(f"{i}.png,{';'.join(names)},{'train' if i < 12 else 'val'}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines))
    options = [
        "--table",
        str(table),
        "--multi-label",
        "--model",
        "resnet20",
        "--image-size",
        "8",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    assert main(["fit", *options, "--out", str(tmp_path / "run")]) == 0
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    evaluation = evaluate_checkpoint(checkpoint, precision="32", probes="all", workers=0)
    assert evaluation["probes"] == ["accuracy"]

    opened = open_measured(load(checkpoint), None, None)
    subject_logits = Predictor(load(checkpoint).network, opened, 5, "cpu", "32").split_logits(opened, 0)[0]
    probabilities = subject_logits.sigmoid().numpy()
    labels = torch.tensor([[(i >> k) & 1 for k in range(3)] for i in range(12, 36)]).numpy()
    expected = 100 * average_precision_score(labels, probabilities, average=None)
    measured = evaluation["labels"]
    assert measured["per_class"] == pytest.approx(expected.tolist(), abs=1e-3)
    assert measured["map"] == pytest.approx(expected.mean(), abs=1e-3)
    for average in ("micro", "macro"):
        f1 = 100 * f1_score(labels, probabilities > 0.5, average=average, zero_division=0)
        assert measured[f"f1_{average}"] == pytest.approx(f1, abs=1e-3)
    assert [name for name, _ in evaluation_rows(evaluation)] == [
        "Mean average precision",
        "F1 over all labels",
        "Mean F1 of the classes",
    ]


@pytest.fixture(scope="module")
def of_other_forms(tmp_path_factory):
    """A folder with train and val, a folder of classes, and a table and a pack of the former's images."""
    place = tmp_path_factory.mktemp("forms")
    root = write_image_root(place / "images")
    write_pack(ImageSettings(data=root), place / "images.rmpack", progress=False)
    rows = [f"val/{file.parent.name}/{file.name},{file.parent.name}" for file in root.glob("val/*/*.png")]
    (place / "rows.csv").write_text("\n".join(["image,label", *rows]))
    rows = [f"{row};seen" if row.endswith("red") else row for row in rows]
    (place / "labels.csv").write_text("\n".join(["image,label", *rows]))
    settings = ImageSettings(data=root, table=place / "labels.csv")
    write_pack(settings, place / "labels.rmpack", progress=False)
    return place


def saved_run(save_trained, settings, **changed):
    """A checkpoint whose settings are those of a run on these data."""
    opened = open_images(settings)
    colors = {"mean": [0.5] * 3, "std": [0.25] * 3, "seed": 0, "val_split": settings.val_split}
    colors |= {"folder": str(settings.data), "dataset": settings.dataset}
    plain = {name: str(v) if isinstance(v, Path) else v for name, v in vars(settings).items()}
    plain |= {"multi_label": opened.multi_label, "image_size": 16, "data": colors} | changed
    return save_trained(classes=list(opened.classes), **plain), opened


def test_a_table_in_a_folder_with_a_test_folder_is_split_as_in_training(of_other_forms, save_trained):
    root = of_other_forms / "images"  # with the folder val, which is not a split here
    settings = ImageSettings(data=root, table=of_other_forms / "rows.csv", val_split=0.4)
    checkpoint, opened = saved_run(save_trained, settings)
    measured = open_measured(load(checkpoint), root, None)
    assert torch.equal(measured.evaluation.rows, opened.evaluation.rows)


def test_a_folder_in_place_of_the_files_of_a_table(of_other_forms, save_trained, tmp_path):
    root, table = of_other_forms / "images", of_other_forms / "rows.csv"
    checkpoint, _ = saved_run(save_trained, ImageSettings(data=root, table=table, val_split=0.4))
    other = write_image_root(tmp_path / "other")
    (other / "val").rename(other / "test")
    with pytest.raises(ValueError, match=r"trained on the rows of .*rows\.csv, .* add --dataset folder"):
        open_measured(load(checkpoint), other, None)
    assert len(open_measured(load(checkpoint), other, "folder").evaluation) == 15


@pytest.mark.parametrize(
    "options",
    [{"val_split": 0.4}, {"folds": 2, "fold": 1}, {"val_split": 0.2, "skip_bad": True}, {"holdout": 0.2}],
)
@pytest.mark.parametrize("table", [True, False])
def test_other_data_are_measured_on_their_own_evaluation_split(
    of_other_forms, save_trained, options, table
):
    root = of_other_forms / "images"
    data = {"data": root, "table": of_other_forms / "rows.csv"} if table else {"data": root / "val"}
    checkpoint, _ = saved_run(save_trained, ImageSettings(**data, **options))
    for other, dataset in ((root, "folder"), (of_other_forms / "images.rmpack", "pack")):
        measured = open_measured(load(checkpoint), other, dataset)
        assert (measured.split, len(measured.train), len(measured.evaluation)) == ("val", 36, 15)
    moved = open_measured(load(checkpoint), root / "train", "folder")  # has no evaluation split
    assert len(moved.train) + len(moved.evaluation) == 36


def test_a_folder_of_one_split_alone(of_other_forms, save_trained, tmp_path):
    root = of_other_forms / "images"
    checkpoint, _ = saved_run(save_trained, ImageSettings(data=root))
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "test").symlink_to(root / "val")
    measured = open_measured(load(checkpoint), tmp_path / "later", None)
    assert (measured.split, len(measured.evaluation)) == ("test", 15)


def test_the_folder_of_the_training_spelled_otherwise(of_other_forms, save_trained):
    root = of_other_forms / "images"
    checkpoint, opened = saved_run(save_trained, ImageSettings(data=root, holdout=0.2))
    measured = open_measured(load(checkpoint), root / "train" / "..", None)
    assert measured.split == opened.split == "held out"
    assert torch.equal(measured.evaluation.rows, opened.evaluation.rows)


def test_a_pack_of_several_labels(of_other_forms, save_trained):
    settings = ImageSettings(data=of_other_forms / "labels.rmpack", val_split=0.4)
    checkpoint, opened = saved_run(save_trained, settings)
    measured = open_measured(load(checkpoint), settings.data, None)
    assert measured.multi_label
    assert torch.equal(measured.evaluation.rows, opened.evaluation.rows)


def test_a_network_for_one_label_is_not_measured_on_several(of_other_forms, save_trained):
    settings = ImageSettings(data=of_other_forms / "labels.rmpack", val_split=0.4)
    checkpoint, _ = saved_run(save_trained, settings, multi_label=False)
    with pytest.raises(ValueError, match="of one label each, the data has any number of labels per image"):
        open_measured(load(checkpoint), settings.data, None)


def test_data_without_an_evaluation_split_are_refused_in_words_of_evaluate(of_other_forms, save_trained):
    root = of_other_forms / "images"
    checkpoint, _ = saved_run(save_trained, ImageSettings(data=root))
    with pytest.raises(ValueError, match=r"val has no labelled .* split: add one, such as DIR/test/CLASS$"):
        open_measured(load(checkpoint), root / "val", None)
