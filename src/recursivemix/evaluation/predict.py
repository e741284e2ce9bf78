"""Predictions of trained networks on images: labels, boxes and masks, or label maps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms

from recursivemix.data.annotated_batches import resized
from recursivemix.data.augment import colour_scale, normalise
from recursivemix.data.crop import evaluation_image
from recursivemix.data.decode import (
    UnreadableImageError,
    as_rgb,
    check_sides,
    failure_reason,
    open_image_file,
)
from recursivemix.data.printable import first_difference
from recursivemix.models.feature_map import as_logits
from recursivemix.models.prediction import BoxPrediction, ClassPrediction, MapPrediction, Prediction
from recursivemix.models.preprocessing import Shape
from recursivemix.models.trained import TrainedModel

from .features import RecordedFeatures
from .names import Tta

MERGE_IOU = 0.6
"""IoU above which non-maximum suppression takes detections of several networks or views for one object."""
MOST_DETECTIONS = 100
"""Per image, after merging; COCO counts as many."""


@dataclass(frozen=True)
class UnreadableImage:
    """An image without a prediction."""

    name: str
    reason: str


@dataclass(frozen=True)
class Ensemble:
    """Networks of one task and the same classes, whose predictions are averaged.

    Raises:
        ValueError: no network, or networks of different tasks or classes.
    """

    models: Sequence[TrainedModel]
    tta: Tta | None = None
    """flip: average with the prediction for the mirrored image."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("name at least one checkpoint")
        if self.tta not in (None, "flip"):
            raise ValueError(f"tta must be flip or None, got {self.tta!r}")
        first = self.models[0]
        for other in self.models[1:]:
            if (other.task, other.classes) != (first.task, first.classes):
                raise ValueError(
                    f"{other.path} ({other.task}, {len(other.classes)} classes) and {first.path} "
                    f"({first.task}, {len(first.classes)} classes) must agree on task and classes"
                    f"{first_difference(other.classes, first.classes)}"
                )

    @property
    def mirrors(self) -> tuple[bool, ...]:
        """Whether each view of an image is mirrored."""
        return (False,) if self.tta is None else (False, True)

    def prepare(self, image: Tensor) -> Any:
        """A (3, H, W) uint8 image as `predict` takes it: for classifiers, resized and cropped.

        Raises:
            UnreadableImageError: a detector or segmenter cannot resize it: its sides differ too much.
        """
        if self.models[0].task != "classification":
            check_sides(image.shape[2], image.shape[1])
            return image
        return {
            shape: evaluation_image(image, *shape)
            for shape in {model.preprocessing.shape for model in self.models}
        }

    def predict(self, names: Sequence[str], images: Sequence[Any], top_k: int) -> Iterator[Prediction]:
        """Predictions of a batch of prepared images, without features."""
        if self.models[0].task == "classification":
            yield from self._classify(names, images, top_k)
        elif self.models[0].task == "segmentation":
            yield from map(self._segment, names, images)
        else:
            yield from self._detect(names, images)

    def _classify(
        self, names: Sequence[str], images: Sequence[dict[Shape, Tensor]], top_k: int
    ) -> Iterator[ClassPrediction]:
        views = []
        for model in self.models:
            pixels = torch.stack([image[model.preprocessing.shape] for image in images])
            inputs = network_inputs(model, pixels)
            for mirrored in self.mirrors:
                logits = as_logits(model.network(inputs.flip(-1) if mirrored else inputs))
                views.append(model.probabilities(logits).cpu())
        classes = self.models[0].classes
        best = torch.stack(views).mean(0).topk(min(top_k, len(classes)), 1)
        for name, values, indices in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
            yield ClassPrediction(name, tuple(classes[k] for k in indices), tuple(values))

    def _segment(self, name: str, image: Tensor) -> MapPrediction:
        views = []
        for model in self.models:
            small = resized(image, model.preprocessing.size)
            inputs = network_inputs(model, small[None])
            for mirrored in self.mirrors:
                logits = model.network(inputs.flip(-1) if mirrored else inputs).float()
                large = interpolate(logits, size=image.shape[-2:], mode="bilinear")[0]
                views.append(large.flip(-1) if mirrored else large)
        scores = views[0] if len(views) == 1 else torch.stack([view.softmax(0) for view in views]).mean(0)
        label_map, classes = scores.argmax(0).cpu(), self.models[0].classes
        counts = label_map.flatten().bincount(minlength=len(classes))
        order = counts.argsort(descending=True, stable=True).tolist()
        shares = {classes[k]: float(counts[k]) / label_map.numel() for k in order if counts[k]}
        return MapPrediction(name, (image.shape[-2], image.shape[-1]), label_map, shares)

    def _detect(self, names: Sequence[str], images: Sequence[Tensor]) -> Iterator[BoxPrediction]:
        views: list[list[dict[str, Tensor]]] = []
        for model in self.models:
            inputs = [image.to(model.device).float() / 255 for image in images]
            for mirrored in self.mirrors:
                outputs = model.network([image.flip(-1) for image in inputs] if mirrored else inputs)
                views.append([{key: value.cpu() for key, value in one.items()} for one in outputs])
                if mirrored:
                    views[-1] = [
                        mirror(one, image.shape[-1]) for one, image in zip(views[-1], images, strict=True)
                    ]
        classes = self.models[0].classes
        for name, image, parts in zip(names, images, zip(*views, strict=True), strict=True):
            merged = merge(parts)
            yield BoxPrediction(
                name,
                (image.shape[-2], image.shape[-1]),
                labels=tuple(classes[k] for k in merged["labels"].tolist()),
                scores=tuple(merged["scores"].tolist()),
                boxes=merged["boxes"].float(),
                indices=merged["labels"],
                masks=merged.get("masks"),
            )


def predict(
    models: Sequence[TrainedModel],
    images: Any,
    *,
    top_k: int = 5,
    tta: Tta | None = None,
    features: bool = False,
    batch_size: int = 32,
    workers: int = 0,
) -> list[Prediction]:
    """Predict images with one network, or with the average of several.

    Args:
        models: networks of one task and the same classes. Probabilities of classes are averaged; boxes are
            merged by non-maximum suppression.
        images: an image or a sequence of them: file names, PIL images, (H, W, 3) uint8 arrays, or (3, H, W)
            tensors that are uint8 or floating in [0, 1].
        top_k: number of classes to return, the most probable first; for classification.
        tta: "flip" averages with the prediction for the mirrored image.
        features: return the networks' embeddings too.
        batch_size: images per batch; label maps are predicted one by one.
        workers: threads that read files; 0 reads in the calling thread.

    Returns:
        One prediction per image, in order.

    Raises:
        UnreadableImageError: a ValueError that names the file.
        ValueError: networks that do not go together, or images of another form.
    """
    # Anything else that cannot be iterated over is refused as an image.
    many = isinstance(images, Iterable) and not isinstance(images, (str, Path, Image.Image))
    alone = not many or getattr(images, "ndim", None) in (2, 3)
    results = []
    for result in predictions(
        models,
        [images] if alone else images,
        top_k=top_k,
        tta=tta,
        features=features,
        batch_size=batch_size,
        workers=workers,
    ):
        if isinstance(result, UnreadableImage):
            raise UnreadableImageError(f"cannot read the image {result.name}: {result.reason}")
        results.append(result)
    return results


def predictions(
    models: Sequence[TrainedModel],
    images: Iterable[Any],
    top_k: int = 5,
    tta: Tta | None = None,
    features: bool = False,
    batch_size: int = 32,
    workers: int = 0,
) -> Iterator[Prediction | UnreadableImage]:
    """Yield one result per image as batches are finished; arguments as in `predict`.

    Files that cannot be read yield `UnreadableImage`. Holds two batches of images in memory.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    ensemble = Ensemble(models, tta)
    recorded = RecordedFeatures(models) if features else None
    try:
        # Detectors pad the images of a batch, which the mean of a feature map would show.
        size = 1 if features and models[0].task != "classification" else batch_size
        for batch in read_batches(images, ensemble.prepare, size, workers):
            readable = [item for item in batch if not isinstance(item, UnreadableImage)]
            with torch.inference_mode():
                names, prepared = [name for name, _ in readable], [image for _, image in readable]
                results = iter(list(ensemble.predict(names, prepared, top_k)) if readable else ())
            if recorded is not None:
                results = recorded.added_to(results)
            for item in batch:
                yield item if isinstance(item, UnreadableImage) else next(results)
    finally:
        if recorded is not None:
            recorded.remove()


def network_inputs(model: TrainedModel, images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 images, resized already, as normalized float32 in channels-last on the device."""
    colors = colour_scale(model.preprocessing.mean, model.preprocessing.std, model.device)
    return normalise(images.to(model.device), colors)


def mirror(detections: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Detections of a mirrored image, in the pixels of the image itself, ``width`` pixels wide."""
    x1, y1, x2, y2 = detections["boxes"].unbind(1)
    moved = detections | {"boxes": torch.stack([width - x2, y1, width - x1, y2], 1)}
    return moved | {"masks": moved["masks"].flip(-1)} if "masks" in moved else moved


def merge(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Merge several sets of detections of one image by non-maximum suppression within each class."""
    if len(parts) == 1:
        return parts[0]
    every = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    kept = batched_nms(every["boxes"].float(), every["scores"].float(), every["labels"], MERGE_IOU)
    return {key: value[kept[:MOST_DETECTIONS]] for key, value in every.items()}


# -- images ---------------------------------------------------------------------------------------


def read_batches(
    images: Iterable[Any], prepare: Callable[[Tensor], Any], batch_size: int, workers: int
) -> Iterator[list[tuple[str, Any] | UnreadableImage]]:
    """Read images ahead in threads; yields lists of names with prepared images, in order."""
    if workers == 0:
        batch = []
        for index, source in enumerate(images):
            batch.append(read(source, index, prepare))
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[tuple[str, Any] | UnreadableImage]] = deque()
    try:
        for index, source in enumerate(images):
            waiting.append(pool.submit(read, source, index, prepare))
            if len(waiting) == 2 * batch_size:
                yield [waiting.popleft().result() for _ in range(batch_size)]
        while waiting:
            yield [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
    finally:
        pool.shutdown(cancel_futures=True)


def read(source: Any, index: int, prepare: Callable[[Tensor], Any]) -> tuple[str, Any] | UnreadableImage:
    """Read and prepare one image; ``index`` names it where it has no file name."""
    if not isinstance(source, (str, Path)):
        return getattr(source, "filename", "") or f"image {index}", prepare(as_pixels(source))
    try:
        with open_image_file(Path(source)) as image:
            pixels = as_rgb(image)
        return str(source), prepare(pixels)
    except UnreadableImageError as error:
        cause = error.__cause__
        return UnreadableImage(
            str(source), failure_reason(cause) if isinstance(cause, Exception) else str(error)
        )


def as_pixels(image: Any) -> Tensor:
    """A PIL image, array or tensor as (3, H, W) uint8.

    Raises:
        ValueError: another shape or type.
    """
    if isinstance(image, Image.Image):
        return as_rgb(image)
    pixels = image
    if isinstance(image, np.ndarray):
        pixels = torch.from_numpy(image.copy())
        pixels = pixels.permute(2, 0, 1) if image.ndim == 3 else pixels
    if not isinstance(pixels, Tensor) or pixels.ndim != 3 or len(pixels) != 3 or 0 in pixels.shape:
        found = f"shape {tuple(image.shape)}" if isinstance(pixels, Tensor) else type(image).__name__
        raise ValueError(
            f"an image must be a file name, a PIL image, an (H, W, 3) array or a (3, H, W) tensor, got "
            f"{found}"
        )
    if pixels.dtype == torch.uint8:
        return pixels.cpu()
    span = f" from {pixels.min():.4g} to {pixels.max():.4g}" if pixels.is_floating_point() else ""
    if not (span and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"an image must be uint8, or floating with values in [0, 1], got {image.dtype}{span}"
        )
    return (255 * pixels.float()).round().byte().cpu()
