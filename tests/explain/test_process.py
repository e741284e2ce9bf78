"""The mixing process in numbers: closed forms, values of docs/paper.md 1.3, a simulation in loops."""

import itertools
import json
import math

import pytest
import torch

from recursivemix.cli import main
from recursivemix.explain.closed_form import (
    empty_box_probability,
    half_side_probabilities,
    mean_pasted_share,
    mean_weight_by_age,
)
from recursivemix.explain.process import AGES, THRESHOLDS, measure_process
from recursivemix.explain.statistics import statistics
from recursivemix.explain.statistics_plots import draw_statistics, statistics_page
from recursivemix.mixing import MIXERS

# docs/paper.md 1.3: width, alpha, mean pasted area, nothing pasted in percent.
PAPER = [
    (32, 0.1, 0.033, 3.9),
    (32, 0.3, 0.103, 1.3),
    (32, 0.5, 0.166, 0.76),
    (32, 0.7, 0.223, 0.6),
    (32, 0.9, 0.275, 0.4),
    (224, 0.5, 0.182, 0.0),
]


@pytest.mark.parametrize(("side", "max_area", "mean", "empty"), PAPER)
def test_closed_forms_are_the_papers_values(side, max_area, mean, empty):
    assert mean_pasted_share(side, max_area) == pytest.approx(mean, abs=0.0015)
    assert 100 * empty_box_probability(side, max_area) == pytest.approx(empty, abs=0.08)


def test_mean_weights_by_age_are_the_papers_values():
    # Each with half a unit of its last digit, and what a simulation leaves open.
    published = [(0.833, 2e-3), (0.139, 1e-3), (0.023, 5e-4), (0.0038, 1e-4), (0.00064, 2e-5)]
    published += [(1.1e-4, 5e-6), (2e-5, 5e-6)]
    for age, (value, reach) in enumerate(published):
        assert mean_weight_by_age(age, 32, 0.5) == pytest.approx(value, abs=reach)


@pytest.mark.parametrize(("side", "max_area"), [(32, 0.5), (9, 0.7), (16, 1.0)])
def test_the_closed_form_counts_every_place(side, max_area):
    """Every half side, and every centre both ways, one by one."""
    chances = half_side_probabilities(side, max_area)
    assert float(chances.sum()) == pytest.approx(1)
    total = 0.0
    for half, chance in enumerate(chances.tolist()):
        lengths = [min(c + half, side) - max(c - half, 0) for c in range(side)]
        total += chance * (sum(lengths) / side**2) ** 2
    assert mean_pasted_share(side, max_area) == pytest.approx(total, rel=1e-9)


def test_half_sides_have_the_chances_of_the_drawn_ratio():
    """Of many evenly spaced u, the integer arithmetic of the paper's box."""
    side, max_area, n = 32, 0.5, 200_000
    halves = [int(side * math.sqrt((i + 0.5) / n * max_area)) // 2 for i in range(n)]
    for half, chance in enumerate(half_side_probabilities(side, max_area).tolist()):
        assert halves.count(half) / n == pytest.approx(chance, abs=1e-4)


@pytest.fixture(scope="module")
def published():
    """The paper's process at 32 pixels; one box a batch, so one image a batch says it all."""
    return measure_process("recursivemix", (32, 32), 8000, 1, 0)


def test_the_measured_process_is_the_closed_form(published):
    # The mean of 8000 independent shares with a deviation of about 0.11, at four standard errors.
    assert published.pasted_mean == pytest.approx(
        mean_pasted_share(32, 0.5), abs=4 * 0.11 / math.sqrt(8000)
    )
    assert published.unmixed == pytest.approx(
        empty_box_probability(32, 0.5), abs=4 * 0.088 / math.sqrt(8000)
    )
    for age in range(4):
        assert published.label_by_age[age] == pytest.approx(mean_weight_by_age(age, 32, 0.5), rel=0.12)


def test_the_measured_process_is_the_papers(published):
    expected = {0.1: 1.62, 0.05: 1.94, 0.01: 2.70, 0.001: 3.77, 1e-5: 5.89}
    for threshold, count in expected.items():
        assert published.sources_above[f"{threshold:g}"] == pytest.approx(count, rel=0.025)
    assert published.most_sources in range(8, 12)
    assert published.pasted["p50"] == pytest.approx(0.152, abs=0.01)
    assert published.pasted["p90"] == pytest.approx(0.316, abs=0.015)
    assert published.pasted["max"] == pytest.approx(0.473, abs=0.03)


def test_a_simulation_in_loops_counts_the_same_sources(published):
    generator = torch.Generator().manual_seed(9)
    weights: list[float] = []
    counts = dict.fromkeys(THRESHOLDS, 0)
    steps = 8000
    for step in range(steps + 20):
        u, x, y = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        half = int(32 * math.sqrt(0.5 * u)) // 2
        sides = [min(int(c * 32) + half, 32) - max(int(c * 32) - half, 0) for c in (x, y)]
        pasted = sides[0] * sides[1] / 1024
        weights = [1 - pasted, *(pasted * w for w in weights)][:30]
        if step >= 20:
            for threshold in counts:
                counts[threshold] += sum(w > threshold for w in weights)
    for threshold, count in counts.items():
        assert published.sources_above[f"{threshold:g}"] == pytest.approx(count / steps, rel=0.025)


def test_pixels_follow_the_label_and_shrink(published):
    for age in range(3):
        assert published.pixels_by_age[age] == pytest.approx(published.label_by_age[age], rel=0.03)
    scales = [s for s in published.scale_by_age if s is not None]
    assert scales[0] == pytest.approx(1)
    assert all(a > b for a, b in itertools.pairwise(scales))


def test_the_scale_is_the_side_of_the_box():
    """At one fixed side: the root of the pasted share, where no border clips."""
    found = measure_process("recursivemix", (64, 64), 400, 1, 0, options={"max_area": 0.3})
    exact = 0.0
    chances = half_side_probabilities(64, 0.3)
    for half, chance in enumerate(chances.tolist()):
        if half == 0:
            continue
        roots = sum(math.sqrt((min(c + half, 64) - max(c - half, 0)) / 64) for c in range(64)) / 64
        exact += chance * roots**2 / (1 - float(chances[0]))
    assert found.scale_by_age[1] == pytest.approx(exact, rel=0.06)


def test_other_methods():
    cutmix = measure_process("cutmix", (32, 32), 3000, 4, 0)
    # docs/paper.md 1.3: .300 with a partner that is always another image; one in 4 is the image itself.
    assert cutmix.pasted_mean == pytest.approx(0.300, abs=0.015)
    assert cutmix.label_of_partners == pytest.approx(0.300 * 3 / 4, abs=0.02)
    assert cutmix.label_by_age[1:] == (0,) * (AGES - 1)
    assert cutmix.scale_of_partners == pytest.approx(1, abs=1e-3)
    resizemix = measure_process("resizemix", (64, 64), 100, 8, 0)
    assert resizemix.scale_of_partners < 0.8
    assert resizemix.scale_by_age[0] == pytest.approx(1, abs=1e-3)
    mixup = measure_process("mixup", (16, 16), 400, 16, 0)
    assert mixup.pasted_mean == pytest.approx(0.5, abs=0.07)
    assert mixup.scale_by_age == (None,) * AGES
    dlb = measure_process("dlb", (16, 16), 20, 4, 0)
    assert dlb.label_by_age[:2] == (0.5, 0.5)


def test_coverage_is_densest_in_the_middle():
    found = measure_process("recursivemix", (32, 32), 2000, 1, 0)
    assert found.coverage.mean() == pytest.approx(found.pasted_mean, rel=1e-3)
    assert found.coverage[12:20, 12:20].mean() > 2 * found.coverage[:4, :4].mean()


@pytest.mark.parametrize("mixer", [name for name in MIXERS if name != "transmix"])
def test_every_mixer_has_numbers_and_a_page(mixer, tmp_path):
    found, record = statistics(mixer, size=32, batches=3, batch_size=4, out=tmp_path / "s.html")
    assert found.images == 12
    assert sum(found.label_by_age) + found.label_of_partners == pytest.approx(1, abs=1e-3)
    assert (
        f"{found.mixer}: {100 * found.pasted_mean:.1f} % of an image comes from other"
        in (tmp_path / "s.html").read_text()
    )
    assert (record["closed_form"] is None) == (mixer != "recursivemix")


def test_a_record_and_a_picture(tmp_path):
    _, record = statistics(size=16, batches=5, out=tmp_path / "s.json")
    again = json.loads((tmp_path / "s.json").read_text())
    assert again["sources_above"] == record["sources_above"]
    assert {"command", "commit", "versions", "hardware", "seed"} <= again.keys()
    statistics(size=16, batches=5, theme="dark", out=tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_axes_hold_where_nothing_is_mixed():
    """Ages are whole numbers, shares are not below 0, and every axis has its unit."""
    figure = draw_statistics(*statistics("none", size=16, batches=2), "light")
    by_age, _, _, coverage, bar = figure.axes
    assert by_age.get_xticks().tolist() == list(range(AGES))
    assert coverage.images[0].get_clim() == (0, 1)
    assert coverage.get_xlabel() == "x, pixels"
    assert bar.get_ylabel() == "share of the images"


def test_a_page_names_its_settings_and_has_no_si_prefixes():
    page = statistics_page(*statistics(size=16, batches=2, mixer_options={"max_area": 0.3}))
    assert "2 batches of 8 images of 16 pixels, seed 0, settings max_area 0.3." in page.facts
    (ages,) = [
        plot for section in page.sections for plot in section.plots if plot.title == "Sources by age"
    ]
    assert ages.figure["layout"]["yaxis"]["exponentformat"] == "power"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "--size must be in 8..1024"),
        ({"batches": 0}, "--batches must be in 1"),
        ({"batch_size": 500}, "--batch-size must be in 1..128"),
        ({"mixer": "cutmx"}, "unknown mixer 'cutmx'"),
        ({"mixer_options": {"omga": 1}}, "does not take these options"),
    ],
)
def test_wrong_settings_are_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        statistics(**options, out=tmp_path / "s.json")
    assert not list(tmp_path.iterdir())


def test_no_closed_form_where_the_process_is_another():
    for options in ({"prob": 0.5}, {"partner": "batch", "omega": 0}):
        _, record = statistics(size=16, batches=2, mixer_options=options)
        assert record["closed_form"] is None


def test_the_command_prints_tables(tmp_path, capsys):
    out = tmp_path / "s.html"
    assert main(["statistics", "--size", "32", "--batches", "50", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "pasted share, closed form" in printed
    assert "0.1664" in printed
    assert "2 steps ago" in printed
    assert out.is_file()
    assert main(["statistics", "--mixer", "mixup", "--size", "16", "--batches", "5"]) == 0
    assert "closed form" not in capsys.readouterr().out
    assert main(["statistics", "--out", "s.txt"]) == 2
    assert "--out must end in .json or .html or .png" in capsys.readouterr().err
