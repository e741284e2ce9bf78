"""From records to sentences: the answer follows from the numbers."""

import json
from pathlib import Path

import pytest
import yaml
from made_up import WHERE, older, record, write_runs

from recursivemix.compare.collect import collect
from recursivemix.compare.compare import COMPARISON, SETTINGS, report
from recursivemix.compare.grid import labelled_runs
from recursivemix.compare.metrics import metrics_of
from recursivemix.compare.records import read_comparison
from recursivemix.compare.settings import CompareSettings
from recursivemix.evaluation.probes import compared_metrics
from recursivemix.report.statistics import holm, paired_difference
from recursivemix.report.words import verdict

RESULTS = Path(__file__).parents[2] / "results"


def compared(folder, accuracies: dict[str, list[float]], seeds: int = 3, **options):
    """`collect` over runs with these accuracies, one per seed; missing ones are unfinished."""
    per_image = options.pop("per_image", False)
    settings = CompareSettings(mixers=",".join(accuracies), seeds=seeds, epochs=6, **options)
    values = {label: [*own, *[0.0] * seeds] for label, own in accuracies.items()}
    write_runs(folder, settings, lambda label, seed: values[label][seed], None, per_image)
    for run in labelled_runs(settings):
        if run.seed >= len(accuracies[run.label]):
            (folder / run.folder / "record.json").unlink()
    return collect(settings, folder, WHERE)


def pair_of(result, method: str, metric: str = "acc1_last") -> dict:
    return next(p for p in result["pairs"] if (p["method"], p["metric"]) == (method, metric))


def test_a_winner_is_named_with_its_interval(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": [73.1, 74.0, 72.0]})
    pair = pair_of(result, "cutmix")
    expected = paired_difference([73.1, 74.0, 72.0], [70.0, 71.0, 69.0])
    assert (pair["mean"], pair["low"], pair["p"]) == (expected.mean, expected.low, expected.p)
    assert result["answer"].startswith(
        "cutmix has a higher accuracy than none on digits (500 training images, resnet20, 6 epochs)"
    )
    assert "by 3.03 points" in result["answer"]
    assert "3 seeds" in result["answer"]


def test_what_scored_higher_without_being_shown_is_named(tmp_path):
    steady, wild = [72.0, 73.0, 71.1], [79.0, 69.0, 75.0]
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": steady, "mixup": wild})
    assert result["answer"].startswith("cutmix has a higher accuracy than none")
    assert result["answer"].endswith("; mixup scored higher, but that is not shown to be more than chance.")


def test_no_winner_where_the_interval_holds_zero(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": [73.0, 70.5, 69.5]})
    assert result["answer"].startswith("No method is shown to have a higher accuracy than none")
    assert "cutmix's, +1.00" in result["answer"]
    needed = pair_of(result, "cutmix")["seeds_needed"]
    assert f"about {needed} seeds would show a difference of this size" in result["answer"]


def test_the_correction_can_take_a_winner_away(tmp_path):
    """Alone it would be shown; as one of several it is not."""
    none, good = [70.0, 71.0, 69.0], [70.6, 71.3, 69.5]
    alone = compared(tmp_path / "alone", {"none": none, "cutmix": good})
    assert alone["answer"].startswith("cutmix has a higher accuracy")
    crowd = {name: [70.1, 70.8, 69.2] for name in ("mixup", "resizemix")}
    among = compared(tmp_path / "among", {"none": none, "cutmix": good, **crowd})
    assert among["answer"].startswith("No method is shown")
    pairs = [pair for pair in among["pairs"] if pair["metric"] == "acc1_last"]
    assert [pair["p_corrected"] for pair in pairs] == pytest.approx(holm([pair["p"] for pair in pairs]))


def test_worse_methods_and_near_rivals_are_named(tmp_path):
    worse = compared(tmp_path / "w", {"none": [70.0, 71.0, 69.0], "mixup": [60.1, 61.0, 59.0]})
    assert "mixup has a lower accuracy" in worse["answer"]
    close = {"none": [70.0, 71.0, 69.0], "cutmix": [75.0, 76.1, 74.0], "mixup": [75.1, 75.9, 74.2]}
    answer = compared(tmp_path / "c", close)["answer"]
    assert "; no difference to cutmix is shown" in answer or "; no difference to mixup is shown" in answer


def test_rivals_that_are_shown_to_be_lower_are_not_named(tmp_path):
    clear = {"none": [70.0, 71.0, 69.0], "cutmix": [75.0, 76.1, 74.0], "mixup": [80.1, 81.0, 79.2]}
    answer = compared(tmp_path, clear)["answer"]
    assert answer.startswith("mixup has a higher accuracy than none")
    assert "cutmix" not in answer


def test_a_lower_score_needs_no_more_seeds(tmp_path):
    """Their number is only given for a method that may turn out to be better."""
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": [67.0, 70.5, 69.5]})
    assert pair_of(result, "cutmix")["seeds_needed"] is not None
    assert result["answer"].startswith("No method is shown to have a higher accuracy than none")
    assert "seeds would show" not in result["answer"]


@pytest.mark.parametrize("per_image", [False, True])
def test_a_method_with_too_few_finished_seeds_hides_no_other(tmp_path, per_image):
    values = {"none": [70.0, 71.0, 69.0], "cutmix": [88.0, 89.1, 87.0], "mixup": [95.0, 95.5]}
    answer = compared(tmp_path, values, per_image=per_image)["answer"]
    assert answer.startswith("cutmix has a higher accuracy than none")
    assert answer.endswith("; too few seeds of mixup are finished to compare.")
    assert "scored higher" not in answer


def test_two_seeds_with_predictions_on_images_settle_nothing(tmp_path):
    """Their differences can be equal by chance, and then leave no error over seeds at all."""
    values = {"none": [50.0, 51.1], "cutmix": [90.0, 91.1]}
    result = compared(tmp_path, values, seeds=2, per_image=True)
    pair = pair_of(result, "cutmix")
    assert pair["uncertainty"] == "seeds and images"
    assert pair["p_corrected"] < 0.05
    assert result["answer"].startswith("2 seeds cannot show a difference of methods")
    assert "run at least --seeds 3" in result["answer"]
    assert verdict(pair, result["metrics"]["acc1_last"]) == "not shown: 2 seeds, 3 are needed"


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_settle_nothing(tmp_path, seeds):
    result = compared(tmp_path, {"none": [70.0, 70.1], "cutmix": [80.0, 80.2]}, seeds=seeds)
    assert "cannot show a difference of methods" in result["answer"]
    assert "run at least --seeds 3" in result["answer"]
    assert result["methods"][1]["estimates"]["acc1_last"]["low"] is None
    assert pair_of(result, "cutmix")["p"] is None


def test_one_seed_with_predictions_on_images_says_something_about_images(tmp_path):
    result = compared(tmp_path, {"none": [50.0], "cutmix": [90.0]}, seeds=1, per_image=True)
    pair = pair_of(result, "cutmix")
    assert (pair["uncertainty"], pair["images"]) == ("images", 90)
    # 36 of 90 images differ, all in one direction.
    half = 1.959964 * 100 * (0.4 * 0.6 * 90 / 89 / 90) ** 0.5
    assert (pair["low"], pair["high"]) == pytest.approx((40 - half, 40 + half), abs=1e-3)
    assert result["answer"].startswith("1 seed cannot show a difference of methods")
    assert "95 % interval over test images alone" in result["answer"]


def test_seeds_and_images_together_decide(tmp_path):
    values = {"none": [50.0, 51.1, 50.0], "cutmix": [90.0, 90.0, 91.1]}
    result = compared(tmp_path, values, per_image=True)
    assert pair_of(result, "cutmix")["uncertainty"] == "seeds and images"
    assert pair_of(result, "cutmix", "nll")["uncertainty"] == "seeds"
    assert "(95 % interval +" in result["answer"]
    assert "3 seeds, 90 test images" in result["answer"]


@pytest.mark.parametrize(
    ("options", "common"),
    [
        ({"settings": {"val_split": 0.2}}, False),
        ({"settings": {"holdout": 0.2}}, False),
        ({"folds": 5}, False),
        ({"settings": {"val_split": 0.2, "split_seed": 0}}, True),
        ({"settings": {"split_seed": 0}}, True),
    ],
)
def test_a_split_drawn_by_the_seed_has_no_common_images(tmp_path, options, common):
    values = {"none": [50.0, 51.1, 50.0], "cutmix": [90.0, 90.0, 91.1]}
    result = compared(tmp_path, values, per_image=True, data=Path("photos"), **options)
    assert pair_of(result, "cutmix")["uncertainty"] == ("seeds and images" if common else "seeds")


def test_unfinished_runs_are_listed_and_pairs_are_of_common_seeds(tmp_path):
    result = compared(tmp_path / "some", {"none": [70.0, 71.0, 69.0], "cutmix": [71.0, 72.5]})
    assert result["unfinished"] == ["cutmix-seed2"]
    assert pair_of(result, "cutmix")["differences"] == [1.0, 1.5]
    with pytest.raises(ValueError, match="no finished run"):
        compared(tmp_path / "empty", {"none": [], "cutmix": []})


def test_methods_without_a_common_seed_cannot_be_compared(tmp_path):
    result = compared(tmp_path, {"none": [], "cutmix": [71.0]})
    assert result["answer"].startswith("Nothing can be compared yet")
    assert result["answer"].endswith(": no seed has the accuracy of both none and another method.")
    assert result["methods"][0]["runs"][0]["cost"]["step_overhead"] is None


def test_every_metric_is_in_pairs_or_absent_everywhere(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0], "cutmix": [71.0, 72.0]}, seeds=2)
    found = {pair["metric"] for pair in result["pairs"]}
    measured = {metric.name for metric in compared_metrics()} - {"top5"}
    assert found == measured | {"acc1_last", "acc1_best", "images_per_second"}
    assert json.loads(json.dumps(result)) == result  # plain values


def test_intervals_of_bounded_metrics_stay_within_their_bounds(tmp_path):
    result = compared(tmp_path, {"none": [99.0, 60.0, 80.0], "cutmix": [2.0, 90.0, 55.0]})
    for method in result["methods"]:
        for metric, found in method["estimates"].items():
            assert found["low"] >= 0, metric
            if result["metrics"][metric]["unit"] == "%":
                assert found["high"] <= 100, metric


def test_values_that_are_not_finite_are_left_out(tmp_path):
    """As the loss of a network whose logits overflow: its seed is not compared in it."""
    compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": [73.1, 74.0, 72.0]})
    file = tmp_path / "runs" / "cutmix-seed1" / "evaluation.json"
    evaluation = json.loads(file.read_text())
    evaluation["reliability"]["confidence"][-1] = None
    file.write_text(json.dumps(evaluation | {"nll": float("nan")}))
    result = report(tmp_path)
    assert (pair_of(result, "cutmix", "nll")["n"], pair_of(result, "cutmix")["n"]) == (2, 3)
    assert "NaN" not in (tmp_path / "page.html").read_text().rpartition("</main>")[0]


def test_the_overhead_is_against_the_same_seed(tmp_path):
    settings = CompareSettings(mixers="none,cutmix", seeds=2, epochs=6)
    write_runs(tmp_path, settings, lambda label, seed: 70.0)
    for run, speed in zip(labelled_runs(settings), (1000, 800, 500, 500), strict=True):
        file = tmp_path / run.folder / "record.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"images_per_second": speed}))
    result = collect(settings, tmp_path, WHERE)
    assert [run["cost"]["step_overhead"] for run in result["methods"][1]["runs"]] == [1.25, 1.0]


def test_pairs_are_made_for_another_baseline(tmp_path):
    values = {"none": [70.0, 71.0, 72.0], "cutmix": [71.0, 72.0, 73.1]}
    result = compared(tmp_path, values, baseline="cutmix")
    assert {pair["method"] for pair in result["pairs"]} == {"none"}
    (tmp_path / COMPARISON).write_text(json.dumps(result))
    again = read_comparison(tmp_path, baseline="none")
    assert pair_of(again, "cutmix")["mean"] == -pair_of(result, "none")["mean"]
    with pytest.raises(ValueError, match="--baseline must be one of none, cutmix, got mixup"):
        read_comparison(tmp_path, baseline="mixup")


# -- folders that are still running, and of earlier versions ----------------------------------------


def test_a_report_collects_what_a_running_comparison_has_finished(tmp_path):
    values = {"none": [70.0, 71.0, 69.0], "cutmix": [73.1, 74.0, 72.0]}
    expected = compared(tmp_path, values)
    found = report(tmp_path)
    assert found["answer"] == expected["answer"]
    assert json.loads((tmp_path / COMPARISON).read_text())["pairs"] == expected["pairs"]
    assert found["commit"] == "0123abc"  # of the first run
    assert found["unfinished"] == []


def test_a_report_before_the_first_run_is_finished_says_so(tmp_path):
    compared(tmp_path, {"none": [70.0], "cutmix": [71.0]}, seeds=1)
    for file in tmp_path.rglob("record.json"):
        file.unlink()
    with pytest.raises(ValueError, match="has no finished run: see the logs in"):
        report(tmp_path)


def test_records_of_the_version_before_say_the_same(tmp_path):
    """``record.json`` with ``acc1_last``, ``comparison.yaml`` without the newer settings."""
    settings = CompareSettings(mixers="none,cutmix", seeds=3, epochs=6, data=Path("/data/photos"))

    def accuracy(label, seed):
        return 70.0 + 3 * (label == "cutmix") + seed % 2

    write_runs(tmp_path / "new", settings, accuracy)
    write_runs(tmp_path / "old", settings, accuracy, convert=older)
    before = {
        "data": "/data/photos", "dataset": "auto", "mixers": "none,cutmix", "seeds": 3, "epochs": 6,
        "model": "resnet20", "settings": {"trainer": {"check_val_every_n_epoch": 10}}, "images": 2000,
    }  # fmt: skip
    (tmp_path / "old" / SETTINGS).write_text(yaml.safe_dump(before))
    new, old = report(tmp_path / "new"), report(tmp_path / "old")
    for name in ("answer", "pairs", "data", "epochs", "model", "seeds", "metrics", "unfinished"):
        assert old[name] == new[name], name
    assert [m["estimates"] for m in old["methods"]] == [m["estimates"] for m in new["methods"]]
    assert "acc1_last" in older(record(70.0, 2))


COMMITTED = sorted(path.parent for path in RESULTS.glob("*/*/*.json") if path.parent.parent.name != "gpu")


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_comparisons_keep_their_numbers(folder):
    """Means, differences and, where there is an interval, p-values are those that were committed."""
    (file,) = folder.glob("*.json")
    before, now = json.loads(file.read_text()), read_comparison(folder)
    for old, new in zip(before["methods"], now["methods"], strict=True):
        assert old["label"] == new["label"]
        for metric, found in old["estimates"].items():
            assert found["values"] == new["estimates"][metric]["values"]
            assert found["mean"] == pytest.approx(new["estimates"][metric]["mean"])
    for pair in before["pairs"]:
        again = pair_of(now, pair["method"], pair["metric"])
        assert again["differences"] == pytest.approx(pair["differences"])
        if pair["n"] >= 3:
            for name in ("mean", "low", "high", "p", "p_corrected", "seeds_needed"):
                assert again[name] == pytest.approx(pair[name]), name
        else:
            assert again["low"] is again["p"] is None


def test_the_losses_of_several_labels_are_no_percentages():
    multi_label = {
        "score": "map",
        "metrics": {"loss_clean": 0.2, "val_loss": 0.3, "map_clean": 90.0, "map": 80.0},
    }
    metrics = metrics_of(multi_label, False)
    for name, about in metrics.items():
        is_loss = name in ("loss_clean", "val_loss")
        if name != "images_per_second":
            assert (about["unit"], about["higher_is_better"]) == (("", False) if is_loss else ("%", True))
    assert [name for name, about in metrics.items() if about["drawn"]] == ["map"]
