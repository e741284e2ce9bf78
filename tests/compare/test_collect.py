"""From records to sentences: what is said follows from the numbers, and nothing else is said."""

import json

import pytest

from recursivemix.compare.collect import METRICS, collect
from recursivemix.compare.grid import CompareConfig, jobs_of
from recursivemix.report.statistics import compare_all, holm, paired_difference

WHERE = {
    "command": ["recursivemix", "compare"],
    "date": "today",
    "commit": "c",
    "versions": {},
    "hardware": {},
}


def write_run(folder, acc1: float, speed: float = 1000.0) -> None:
    """The two records of a run that ended at ``acc1``."""
    folder.mkdir(parents=True)
    record = {
        "commit": "0123abc", "acc1_last": acc1, "acc1_best": acc1 + 1, "best_epoch": 2, "seconds": 10.0,
        "images_per_second": speed,
        "peak_memory_bytes": 1000, "parameters": {"training": 12, "inference": 10},
        "epochs": [{"epoch": 1, "acc1": acc1 - 5}, {"epoch": 2, "acc1": acc1}],
        "data": {"train_images": 100, "evaluation_images": 50, "evaluation_split": "test",
                 "image_size": 32},
    }  # fmt: skip
    evaluation = {
        "classes": ["a", "b", "c"], "accuracy": {"top1": acc1, "top5": None, "per_class": [acc1] * 3},
        "nll": 2 - acc1 / 100, "brier": 0.5, "ece": 3.0, "corruption_mean": acc1 - 20,
        "occlusion_mean": 40.0, "scale_mean": 30.0, "multiple": None, "localisation": None,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))


def compared(tmp_path, accuracies: dict[str, list[float]], seeds: int = 3, **options):
    """`collect` over runs with these accuracies, one a seed; fewer than ``seeds`` are unfinished."""
    config = CompareConfig(mixers=",".join(accuracies), seeds=seeds, epochs=2, **options)
    for job in jobs_of(config):
        values = accuracies[job.label]
        if job.seed < len(values):
            write_run(tmp_path / "runs" / job.name, values[job.seed])
    return collect(config, tmp_path, WHERE)


def test_a_winner_is_named_with_its_interval(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": [73.1, 74.0, 72.0]})
    pair = next(pair for pair in result["pairs"] if pair["metric"] == "acc1_last")
    expected = paired_difference([73.1, 74.0, 72.0], [70.0, 71.0, 69.0])
    assert (pair["mean"], pair["low"], pair["p"]) == (expected.mean, expected.low, expected.p)
    assert result["answer"].startswith("cutmix is more accurate than none on digits (100 training images")
    assert "by 3.03 points" in result["answer"]
    assert "3 seeds" in result["answer"]


def test_what_came_out_higher_without_being_shown_is_named(tmp_path):
    steady, wild = [72.0, 73.0, 71.1], [79.0, 69.0, 75.0]
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": steady, "mixup": wild})
    assert result["answer"].startswith("cutmix is more accurate than none")
    assert result["answer"].endswith("; mixup came out higher still, but that is not shown.")


def test_no_winner_where_the_interval_holds_zero(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": [73.0, 70.5, 69.5]})
    assert result["answer"].startswith("No method is shown to be more accurate than none")
    assert "cutmix's, +0.9" in result["answer"] or "cutmix's, +1.0" in result["answer"]
    pair = next(pair for pair in result["pairs"] if pair["metric"] == "acc1_last")
    assert f"about {pair['seeds_needed']} seeds would settle it" in result["answer"]


def test_the_correction_can_take_a_winner_away(tmp_path):
    """Alone it would be shown; as one of several it is not."""
    none, good = [70.0, 71.0, 69.0], [70.6, 71.3, 69.5]
    alone = compared(tmp_path / "alone", {"none": none, "cutmix": good})
    assert alone["answer"].startswith("cutmix is more accurate")
    crowd = {name: [70.1, 70.8, 69.2] for name in ("mixup", "resizemix")}
    among = compared(tmp_path / "among", {"none": none, "cutmix": good, **crowd})
    assert among["answer"].startswith("No method is shown")
    pairs = [pair for pair in among["pairs"] if pair["metric"] == "acc1_last"]
    assert [pair["p_corrected"] for pair in pairs] == pytest.approx(holm([pair["p"] for pair in pairs]))


def test_worse_methods_and_near_rivals_are_named(tmp_path):
    worse = compared(tmp_path / "w", {"none": [70.0, 71.0, 69.0], "mixup": [60.1, 61.0, 59.0]})
    assert "mixup is less accurate" in worse["answer"]
    close = {"none": [70.0, 71.0, 69.0], "cutmix": [75.0, 76.1, 74.0], "mixup": [75.1, 75.9, 74.2]}
    assert "can't be told apart from" in compared(tmp_path / "c", close)["answer"]


def test_one_seed_settles_nothing(tmp_path):
    result = compared(tmp_path, {"none": [70.0], "cutmix": [80.0]}, seeds=1)
    assert result["answer"].startswith("One seed can't tell methods apart")
    assert result["methods"][1]["estimates"]["acc1_last"]["low"] is None


def test_unfinished_runs_are_listed_and_pairs_are_of_common_seeds(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0, 69.0], "cutmix": [71.0, 72.5]})
    assert result["unfinished"] == ["cutmix-seed2"]
    pair = next(pair for pair in result["pairs"] if pair["metric"] == "acc1_last")
    assert pair["differences"] == [1.0, 1.5]
    with pytest.raises(ValueError, match="no finished run"):
        compared(tmp_path / "empty", {"none": [], "cutmix": []})


def test_nothing_in_common_is_said(tmp_path):
    result = compared(tmp_path, {"none": [], "cutmix": [71.0]})
    assert result["answer"].startswith("Nothing can be compared yet")
    assert result["methods"][0]["runs"][0]["cost"]["step_overhead"] is None


def test_every_metric_is_in_pairs_or_absent_everywhere(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0], "cutmix": [71.0, 72.0]}, seeds=2)
    found = {pair["metric"] for pair in result["pairs"]}
    assert found == set(METRICS) - {"top5", "multiple_top4", "localisation"}
    assert json.loads(json.dumps(result)) == result  # plain values


def test_the_overhead_is_against_the_same_seed(tmp_path):
    config = CompareConfig(mixers="none,cutmix", seeds=2, epochs=2)
    for job, speed in zip(jobs_of(config), (1000, 800, 500, 500), strict=True):
        write_run(tmp_path / "runs" / job.name, 70.0, speed)
    result = collect(config, tmp_path, WHERE)
    assert [run["cost"]["step_overhead"] for run in result["methods"][1]["runs"]] == [1.25, 1.0]


def test_pairs_are_made_for_another_baseline(tmp_path):
    result = compared(tmp_path, {"none": [70.0, 71.0], "cutmix": [71.0, 72.0]}, seeds=2, baseline="cutmix")
    assert {pair["method"] for pair in result["pairs"]} == {"none"}
    assert compare_all({"none": {}, "cutmix": {}}, "none", {"acc1_last": lambda run: None}) == []
