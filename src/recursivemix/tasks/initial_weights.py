"""The trained weights that a classification run starts from, and the preprocessing that they expect."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from recursivemix.data.images import ImageData
from recursivemix.models.preprocessing import Preprocessing, evaluation_resize
from recursivemix.models.pretrained import (
    StoredWeights,
    read_weights,
    timm_preprocessing,
    timm_weights,
)

from .settings import ClassificationSettings


def source_flag(settings: ClassificationSettings) -> str:
    """Return the option that names the weights."""
    return "--pretrained" if settings.weights is None else "--weights"


@lru_cache(maxsize=1)
def file_weights(path: Path, model: str, changed: int) -> StoredWeights:
    """Read a file once for the preprocessing and the weights of a run; the caller clears the cache."""
    return read_weights(path, model)


def initial_weights(settings: ClassificationSettings) -> StoredWeights | None:
    """Return the weights that a run starts from; None for random ones.

    Raises:
        ValueError: a file that cannot be used, or weights that timm does not have.
    """
    try:
        if settings.weights is not None:
            changed = settings.weights.stat().st_mtime_ns if settings.weights.is_file() else 0
            return file_weights(settings.weights, settings.model, changed)
        if settings.pretrained:
            return timm_weights(settings.model, download=settings.download)
    except ValueError as error:
        raise ValueError(f"{source_flag(settings)}: {error}") from error
    return None


def run_preprocessing(settings: ClassificationSettings, data: ImageData) -> Preprocessing:
    """Return the preprocessing of a run: from its options, else of the trained weights, else of the data.

    Raises:
        ValueError: as `initial_weights`.
    """
    stored = None
    if settings.weights is not None:
        weights = initial_weights(settings)
        stored = None if weights is None else weights.preprocessing
    elif settings.pretrained:
        stored = timm_preprocessing(settings.model)
    if stored is None:
        resize = evaluation_resize(data.image_size)
        stored = Preprocessing(data.image_size, data.mean, data.std, resize, data.interpolation)
    size = settings.image_size or stored.size
    resize = round(size * stored.resize / stored.size)
    if settings.crop_pct is not None:
        resize = math.floor(size / settings.crop_pct)
    return Preprocessing(
        size,
        settings.mean or stored.mean,
        settings.std or stored.std,
        resize,
        settings.interpolation or stored.interpolation,
    )
