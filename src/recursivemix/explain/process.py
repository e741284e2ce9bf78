"""Measure the mixing process: no network, no data, only what a mixer draws and how it applies it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.order import generator_of

from .batches import network_for
from .sources import Composition, SourceTracker

THRESHOLDS = (0.1, 0.05, 0.01, 1e-3, 1e-5)
"""Label weights above which sources are counted; those of the table in docs/paper.md."""
AGES = 7
"""Number of ages that are distinguished: 0 to 6 steps."""
HISTORY = 64
"""Steps whose sources are distinguished; older ones have a label weight below 1e-30."""
WARM_UP = HISTORY // 4
"""Steps that are not counted, so that there is a history."""
BINS = 40
"""Bins of the histogram of lam."""
COORDINATE_SCALE = 1e5
"""Pixel coordinates are stored divided by it, so small that methods that look at the images ignore them."""


@dataclass(frozen=True)
class Statistics:
    """Measurements of a mixing process; means are over all images after the first steps."""

    mixer: str
    images: int
    """Number of images that were counted."""
    sources_above: dict[str, float]
    """Mean number of sources with a label weight above each of `THRESHOLDS`."""
    most_sources: int
    """Largest number of sources above the smallest threshold in any image."""
    label_by_age: tuple[float, ...]
    """Mean label weight of all sources of an age in steps; age 0 is the own image alone."""
    label_of_partners: float
    """Mean label weight of other images of the same batch."""
    pixels_by_age: tuple[float, ...]
    """Mean share of the pixels of all sources of an age."""
    scale_by_age: tuple[float | None, ...]
    """Mean side of a visible source as a share of its original side; None if none was visible, and for
    methods that blend."""
    scale_of_partners: float | None
    """The same for other images of the same batch."""
    pasted_mean: float
    """Mean of ``1 - lam``."""
    pasted: dict[str, float]
    """"p10", "p50", "p90" and "max" of ``1 - lam``."""
    unmixed: float
    """Share of the images with ``lam`` 1."""
    lam_counts: tuple[int, ...]
    """Histogram of ``lam`` in `BINS` equal bins of [0, 1]."""
    coverage: Tensor
    """(H, W) float32: share of the images in which each pixel shows another image."""

    def as_dict(self) -> dict[str, Any]:
        """Return the measurements as plain values, as a record holds them."""
        left_out = ("mixer", "coverage")
        return {name: value for name, value in vars(self).items() if name not in left_out}


def measure_process(
    mixer: str,
    size: tuple[int, int],
    batches: int,
    batch_size: int,
    seed: int,
    model: str = "resnet20",
    options: dict[str, Any] | None = None,
) -> Statistics:
    """Run a mixer on synthetic images of (H, W) pixels and measure what it mixes.

    ``batches`` are counted, after `WARM_UP` others. Methods that work inside a network get ``model``.

    Raises:
        ValueError: an unknown mixer, or options it does not take.
    """
    network = network_for(mixer, model, batch_size * HISTORY, size[0], seed)
    tracker = SourceTracker(mixer, batch_size, HISTORY, network, **({"seed": seed} | (options or {})))
    images = synthetic_images(batch_size, size, seed)
    tracker.start_epoch()
    totals = Totals(size)
    for step in range(WARM_UP + batches):
        composition = tracker(images)
        if step >= WARM_UP:
            totals.add(composition, step % HISTORY)
    return totals.result(mixer)


def synthetic_images(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Return (count, 3, H, W): smooth noise, and in the last two channels the scaled (x, y) of pixels."""
    generator = generator_of(seed, "made-up images")
    coarse = torch.randn(count, 1, 7, 7, generator=generator)
    noise = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    x = torch.arange(size[1], dtype=torch.float32).expand(count, 1, *size) * (1 / COORDINATE_SCALE)
    y = torch.arange(size[0], dtype=torch.float32)[:, None].expand(count, 1, *size) * (1 / COORDINATE_SCALE)
    return torch.cat([noise, x, y], 1)


class Totals:
    """Sums over batches of images of (H, W) pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.images = 0
        self.above = torch.zeros(len(THRESHOLDS), dtype=torch.float64)
        self.most = 0
        self.label = torch.zeros(AGES, dtype=torch.float64)
        self.pixels = torch.zeros(AGES, dtype=torch.float64)
        self.partners = 0.0
        self.scales = torch.zeros(AGES + 1, dtype=torch.float64)  # the last: partners
        self.visible = torch.zeros(AGES + 1, dtype=torch.float64)
        self.lam: list[Tensor] = []
        self.coverage = torch.zeros(size, dtype=torch.float64)

    def add(self, composition: Composition, step: int) -> None:
        """Add one batch, whose images have the source numbers ``step * batch_size`` and following."""
        count = len(composition.label)
        label = composition.label.view(count, HISTORY, count)
        pixels = composition.pixels.view(count, HISTORY, count)
        index = torch.arange(count)
        self.images += count
        above = (composition.label[:, :, None] > torch.tensor(THRESHOLDS)).sum(1)  # (B, thresholds)
        self.above += above.sum(0)
        self.most = max(self.most, int(above[:, -1].max()))
        self.lam.append(composition.batch.lam.double())
        own_label, own_pixels = label[index, step, index], pixels[index, step, index]
        ages = (step - torch.arange(AGES)) % HISTORY
        for totals, values, own in ((self.label, label, own_label), (self.pixels, pixels, own_pixels)):
            by_age = values[:, ages].double().sum((0, 2))
            by_age[0] = own.double().sum()  # without its partners
            totals += by_age
        self.partners += float((label[:, step].sum(1) - own_label).double().sum())
        if composition.shown is None:
            self.coverage += (1 - own_pixels.double()).sum()
            return
        self.coverage += (composition.shown != (step * count + index)[:, None, None]).double().sum(0)
        self._add_scales(composition.batch.images[:, 1:] * COORDINATE_SCALE, composition.shown, step)

    def _add_scales(self, coordinates: Tensor, shown: Tensor, step: int) -> None:
        """Add the scale of every visible source: the inverse distance of its neighbouring pixels.

        Args:
            coordinates: (B, 2, H, W) original (x, y) of every pixel.
            shown: (B, H, W) source of every pixel.
            step: of the batch, modulo `HISTORY`.
        """
        count = len(shown)
        total = count * HISTORY * count
        # A source is pasted at most once into each image, so (image, source) identifies it.
        key = torch.arange(count)[:, None, None] * HISTORY * count + shown
        right, below = shown[:, :, 1:] == shown[:, :, :-1], shown[:, 1:] == shown[:, :-1]
        x, y = coordinates[:, 0], coordinates[:, 1]
        distances = []
        for keys, distance in (
            (key[:, :, 1:][right], (x[:, :, 1:] - x[:, :, :-1])[right]),
            (key[:, 1:][below], (y[:, 1:] - y[:, :-1])[below]),
        ):
            pairs = torch.bincount(keys, minlength=total)
            distances.append(torch.bincount(keys, weights=distance.double(), minlength=total) / pairs)
        across, down = distances  # NaN without a pair of pixels
        usable = (across > 0) & (down > 0)
        scale = 1 / (across * down).clamp(min=1e-12).sqrt()
        pair = torch.arange(total)
        age = (step - pair // count) % HISTORY
        partner = (age == 0) & (pair % (HISTORY * count) != step * count + pair // (HISTORY * count))
        group = torch.where(partner, AGES, torch.where(age < AGES, age, AGES + 1))
        known = usable & (group <= AGES)
        self.scales += torch.bincount(group[known], weights=scale[known], minlength=AGES + 1)
        self.visible += torch.bincount(group[known], minlength=AGES + 1)

    def result(self, mixer: str) -> Statistics:
        """Return the means."""
        lam = torch.cat(self.lam)
        pasted = 1 - lam
        scales = [float(s / n) if n else None for s, n in zip(self.scales, self.visible, strict=True)]
        quantiles = torch.quantile(pasted[: 2**24], torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        return Statistics(
            mixer=mixer,
            images=self.images,
            sources_above=dict(
                zip((f"{t:g}" for t in THRESHOLDS), (self.above / self.images).tolist(), strict=True)
            ),
            most_sources=self.most,
            label_by_age=tuple((self.label / self.images).tolist()),
            label_of_partners=self.partners / self.images,
            pixels_by_age=tuple((self.pixels / self.images).tolist()),
            scale_by_age=tuple(scales[:AGES]),
            scale_of_partners=scales[AGES],
            pasted_mean=1 - float(lam.mean()),
            pasted=dict(zip(("p10", "p50", "p90"), quantiles.tolist(), strict=True))
            | {"max": float(pasted.max())},
            unmixed=float((lam == 1).double().mean()),
            lam_counts=tuple(int(v) for v in torch.histc(lam.float(), BINS, 0, 1)),
            coverage=(self.coverage / self.images).float(),
        )
