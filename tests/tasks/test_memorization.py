"""Advice about mixing from the accuracy on training images, and what was measured by this project."""

import json
from pathlib import Path

import pytest

from recursivemix.tasks.memorization import (
    fit_level,
    measured_at,
    measured_comparisons,
    measured_near,
    mixing_advice,
)

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.mark.parametrize(
    ("accuracy", "mixer", "words"),
    [
        (99.0, "none", "memorized, and mixing may help"),
        (99.9, "cutmix", "room for this mixing"),
        (95.0, "none", "a comparison with mixing"),
        (98.9, "recursivemix", "only a run with --mixer none tells"),
        (94.9, "none", "train longer or use a larger one"),
        (70.0, "recursivemix", "mix less (--mixer-options.prob 0.5"),
    ],
)
def test_advice_follows_the_fit_of_the_training_images(accuracy, mixer, words):
    first, *measured = mixing_advice(accuracy, mixer, False)
    assert first.startswith(f"{accuracy:.1f} % of the training images")
    assert words in first
    # The accuracy of a run that mixes is not that of a run without, which the measurements are sorted by.
    assert bool(measured) == (mixer == "none" or accuracy >= 99)


def test_the_run_that_mixing_helped_most_is_not_called_underfit():
    """CutMix on CIFAR-100 gains although it predicts fewer of its training images."""
    record = json.loads((RESULTS / "where-it-pays" / "confirm" / "comparison.json").read_text())
    first = {method["label"]: method["runs"][0]["epochs"][-1] for method in record["methods"]}
    plain, mixed = first["none"], first["cutmix"]
    assert mixed["acc1"] > plain["acc1"] + 5
    assert fit_level(mixed["acc_clean"]) == "underfit"
    assert "the network underfits" not in mixing_advice(mixed["acc_clean"], "cutmix", False)[0]


@pytest.mark.parametrize("fine_tuned", [False, True])
@pytest.mark.parametrize("accuracy", [99.5, 97.0, 80.0])
def test_measurements_are_of_the_same_start_and_fit(accuracy, fine_tuned):
    lines = measured_at(accuracy, fine_tuned)
    own = [
        one
        for one in measured_comparisons()
        if one["fine_tuned"] == fine_tuned and fit_level(one["train_accuracy"]) == fit_level(accuracy)
    ]
    if not own:
        assert "has not compared methods" in lines[0]
        return
    assert len(lines) == len(own) + 2
    for one, line in zip(own, lines[1:-1], strict=True):
        assert line.strip().startswith(f"{one['data']}, {one['images']:,} images, {one['network']}")
    assert "may differ for your data" in lines[-1]


def test_the_nearest_number_of_images_per_class_is_chosen():
    counts = sorted({one["images_per_class"] for one in measured_comparisons() if one["fine_tuned"]})
    assert len(counts) > 1
    for count in counts:
        title = measured_near(1.05 * count, True)[0]
        assert title.endswith(f"fine-tuning with {count:g} images per class:")
    assert measured_near(1e9, True)[0].endswith(f"with {counts[-1]:g} images per class:")
    both = "\n".join(measured_near(50))
    assert "training from scratch with" in both
    assert "fine-tuning with" in both


def test_all_measurements_are_listed_without_a_number_of_images():
    lines = measured_near(None)
    assert len(lines) == len(measured_comparisons()) + 3


def test_measurements_are_the_records():
    """The file that docs/make_tables.py writes into the package holds differences of committed runs."""
    record = json.loads((RESULTS / "compare" / "cifar10" / "comparison.json").read_text())
    scores = {
        method["label"]: [run["epochs"][-1]["acc1"] for run in method["runs"]]
        for method in record["methods"]
    }
    plain = next(method for method in record["methods"] if method["label"] == "none")
    (one,) = (
        found
        for found in measured_comparisons()
        if (found["data"], found["epochs"], found["network"]) == ("CIFAR-10", 60, "wrn10_2")
    )
    clean = [run["epochs"][-1]["acc_clean"] for run in plain["runs"]]
    assert one["train_accuracy"] == pytest.approx(sum(clean) / len(clean), abs=0.051)
    for difference in one["differences"]:
        label = difference["method"].partition(" ")[0]
        gains = [a - b for a, b in zip(scores[label], scores["none"], strict=True)]
        assert difference["mean"] == pytest.approx(sum(gains) / len(gains), abs=0.0051)
