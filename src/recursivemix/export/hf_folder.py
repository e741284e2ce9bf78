"""A folder for ``transformers``: a timm network in its wrapper, with class names and preprocessing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .packages import package
from .reference import Reference
from .report import ExportReport
from .timm_file import timm_twin
from .twin import Twin, check_read_back, require_same, save_weights


def write_hf(reference: Reference, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write a folder for transformers and load it with transformers; arguments as in `write_timm`.

    Raises:
        ValueError: timm's network differs; see `require_same`.
    """
    transformers = package("transformers", "hf")
    package("safetensors.torch", "hf")
    twin = timm_twin(reference)
    require_same(twin, reference, allow_mismatch)
    path.mkdir()
    with quiet(transformers):
        config(reference, twin, transformers).save_pretrained(path)
        # With timm's own keys, as on the hub: the wrapper adds its prefix, and timm can load them too.
        save_weights(path / "model.safetensors", twin.loadable, reference.metadata(), "hf")
        loaded = transformers.AutoModelForImageClassification.from_pretrained(path, local_files_only=True)
        transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
    difference = check_read_back(twin, reference, loaded, prefix="timm_model.")
    call = (
        f"from transformers import AutoImageProcessor, AutoModelForImageClassification\n"
        f"model = AutoModelForImageClassification.from_pretrained({str(out)!r})\n"
        f"processor = AutoImageProcessor.from_pretrained({str(out)!r})"
    )
    return ExportReport("hf", reference.model, out, twin.keys, difference, reference.scale, call)


def config(reference: Reference, twin: Twin, transformers: Any) -> Any:
    """Return the wrapper's configuration; its image processor reads ``pretrained_cfg``."""
    timm_cfg = getattr(reference.network, "pretrained_cfg", None) or {}
    colors = reference.trained.preprocessing
    return transformers.TimmWrapperConfig(
        architecture=reference.model,
        architectures=["TimmWrapperForImageClassification"],
        model_args=twin.arguments or None,
        id2label=dict(enumerate(reference.classes)),
        label2id={name: index for index, name in enumerate(reference.classes)},
        # Its pipeline applies a sigmoid then, instead of softmax.
        problem_type="multi_label_classification" if reference.multi_label else None,
        pretrained_cfg={
            "input_size": [3, colors.size, colors.size],
            "mean": list(colors.mean),
            "std": list(colors.std),
            "interpolation": colors.interpolation,
            "crop_pct": crop_share(colors.size, colors.resize),
            "crop_mode": "center",
            # Names of the layers that timm replaces for another number of classes or channels.
            **{name: timm_cfg[name] for name in ("first_conv", "classifier") if name in timm_cfg},
        },
    )


def crop_share(size: int, resize: int) -> float:
    """Return the share of the shorter side that a center crop keeps, so that timm computes ``resize``."""
    share = size / resize
    # timm rounds down what rounding has made a little less than a whole number of pixels.
    return share if math.floor(size / share) == resize else math.nextafter(share, 0)


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Turn off the progress bars and reports of transformers, and restore its settings."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
