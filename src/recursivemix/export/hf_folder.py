"""A folder for ``transformers``: a timm network in its wrapper, with class names and image preparation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recursivemix.models import SMALL_IMAGE

from .packages import package
from .report import ExportReport
from .timm_file import timm_twin
from .trained import Trained
from .twin import Twin, check_read_back, require_same, save_weights


def write_hf(trained: Trained, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write a folder for transformers and read it back with transformers; arguments as in `write_timm`.

    Raises:
        ValueError: see `require_same`.
    """
    transformers = package("transformers", "hf")
    package("safetensors.torch", "hf")
    twin = timm_twin(trained)
    require_same(twin, trained, allow_mismatch)
    path.mkdir()
    with quiet(transformers):
        config(trained, twin, transformers).save_pretrained(path)
        # timm's own keys, as in the hub's folders: the wrapper adds its prefix, and timm reads them too.
        save_weights(path / "model.safetensors", twin.loadable, trained.metadata(), "hf")
        loaded = transformers.AutoModelForImageClassification.from_pretrained(path, local_files_only=True)
        transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
    difference = check_read_back(twin, trained, loaded, prefix="timm_model.")
    call = (
        f"from transformers import AutoImageProcessor, AutoModelForImageClassification\n"
        f"model = AutoModelForImageClassification.from_pretrained({str(out)!r})\n"
        f"processor = AutoImageProcessor.from_pretrained({str(out)!r})"
    )
    return ExportReport("hf", trained.model, out, twin.keys, difference, trained.scale, call)


def config(trained: Trained, twin: Twin, transformers: Any) -> Any:
    """The wrapper's configuration; its ``pretrained_cfg`` is what the image processor works by."""
    own = getattr(trained.backbone, "pretrained_cfg", None) or {}
    size = trained.image_size
    return transformers.TimmWrapperConfig(
        architecture=trained.model,
        architectures=["TimmWrapperForImageClassification"],
        model_args=twin.arguments or None,
        id2label=dict(enumerate(trained.classes)),
        label2id={name: index for index, name in enumerate(trained.classes)},
        pretrained_cfg={
            "input_size": [3, size, size],
            "mean": list(trained.mean),
            "std": list(trained.std),
            "interpolation": "bilinear",
            # As images are evaluated here: all of a small one, 7/8 of a large one's short side.
            "crop_pct": 1.0 if size <= SMALL_IMAGE else 7 / 8,
            "crop_mode": "center",
            # Where timm replaces a layer for another number of classes or channels.
            **{name: own[name] for name in ("first_conv", "classifier") if name in own},
        },
    )


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without the progress bars and reports of transformers; its settings are put back."""
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
