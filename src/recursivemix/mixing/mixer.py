"""Base of every mixer: validation, the random stream, the loss, and one call for all methods.

A method defines what it draws and how it applies a draw; everything else is here, so that training code
never asks which method it uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from .batch import Inputs, Mixed, MixedBatch
from .checks import (
    check_class_weights,
    check_draw,
    check_images,
    check_indices,
    check_labels,
    check_logits,
    check_spatial_dims,
    in_range,
    one_of,
    whole_number,
)
from .draw import Draw
from .eager import eager
from .losses import mean_weighted_cross_entropy, smoothed, soft_binary_cross_entropy, soft_cross_entropy
from .stream import Stream

Loss = Literal["ce", "bce"]


class Mixer(ABC):
    """Base of every mixer: ``batch = mixer(images, labels)``.

    Args:
        num_classes: K, the width of the targets.
        prob: Share of batches that are mixed; share of samples with ``per_sample``. In [0, 1].
        per_sample: Draw for every sample instead of once per batch.
        inplace: Write into the images (and masks) given, for a loop that owns its batch.
        loss: "ce" for one label per image, "bce" for several (multi-hot targets).
        label_smoothing: Share of each label that is spread over all classes, in [0, 1]. Applied in the
            label loss only: targets stay shares of pixels, and the history's predictions are unchanged.
        class_weights: One weight for each class in the label loss, a weighted mean: with "ce" as
            ``torch.nn.CrossEntropyLoss(weight)`` with class indices, with "bce" over the classes.
        spatial_dims: The dimensions that are mixed, negative, ascending; (-2, -1) is height and width.
        seed: Seed of this mixer's random stream.
        rank: Rank of this process, part of the seed; None asks torch.distributed, then the launcher.
        sync_ranks: Draw the same on every rank, as the authors' code of RecursiveMix does.
    """

    draws: tuple[str, ...] = ()
    """The fields of `Draw` that this method makes and applies, in the order of `Draw`."""
    blends: bool = False
    """Whether a pixel may be a blend of two images, which rules out masks."""
    needs_model: bool = False
    """Whether the constructor takes the network as its second argument."""

    @property
    def trains_regions(self) -> bool:
        """Whether batches carry boxes and the loss takes the logits of a region head."""
        return False

    def __init__(
        self,
        num_classes: int,
        *,
        prob: float = 1.0,
        per_sample: bool = False,
        inplace: bool = False,
        loss: Loss = "ce",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        spatial_dims: Sequence[int] = (-2, -1),
        seed: int = 0,
        rank: int | None = None,
        sync_ranks: bool = False,
    ) -> None:
        self.num_classes = whole_number("num_classes", num_classes, 1)
        self.prob = in_range("prob", prob, 0, 1)
        self.per_sample = per_sample
        self.inplace = inplace
        self.loss_name: Loss = one_of("loss", loss, ("ce", "bce"))
        self.label_smoothing = in_range("label_smoothing", label_smoothing, 0, 1)
        self.class_weights = None
        if class_weights is not None:
            self.class_weights = check_class_weights(class_weights, num_classes)
        self.spatial_dims = check_spatial_dims(spatial_dims)
        self.stream = Stream(seed, rank, sync_ranks)
        self.enabled = True
        self.training = True

    # -- what a method defines ------------------------------------------------------------------

    @abstractmethod
    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        """Draw for one batch whose mixed dimensions have this size. The only use of randomness."""

    @abstractmethod
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        """Mix by a draw. Deterministic; writes into the inputs only with ``inplace``."""

    def drawn_fields(self, draw: Draw) -> tuple[str, ...]:
        """Return the fields that a draw to replay must have, if it has any."""
        return self.draws

    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Record a finished step. A method without a history keeps nothing.

        Args:
            batch: The batch that this mixer returned for the step.
            logits: (B, K) of the main head for ``batch.images``.
        """

    def reset(self) -> None:
        """Forget the history; the random stream continues."""

    def start_epoch(self) -> None:
        """Mark the start of an epoch; a method decides what that means for its history."""

    # -- the call -------------------------------------------------------------------------------

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        draw: Draw | None = None,
        masks: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> MixedBatch:
        """Mix one batch.

        Args:
            images: (B, C, ..., H, W), any B >= 1, floating or uint8, normalized or not. Not written to
                unless ``inplace``. Where nothing is mixed the result holds this very tensor.
            targets: (B,) class indices, or (B, K) one-hot, soft or multi-hot labels.
            draw: A `Draw` to replay; None draws from this mixer's stream.
            masks: (B, H, W) integers or bools that get the same draw, pasted and never blended.
            indices: (B,) int64 on the CPU, the position of each sample in the data set; for a method that
                remembers something of every sample, unused by the others.

        Raises:
            ValueError: An input of another kind; the message says what came and what is allowed.
        """
        check_images(images, targets, masks, self.spatial_dims, inplace=self.inplace)
        check_indices(indices, images.shape[0])
        check_labels(targets, images.shape[0], self.num_classes)
        size = tuple(images.shape[d] for d in self.spatial_dims)
        if draw is not None:
            fields = self.drawn_fields(draw) if isinstance(draw, Draw) else ()
            check_draw(draw, type(self).__name__, fields, images.shape[0], size)
        if not (self.enabled and self.training):
            draw = Draw()
        elif draw is None:
            draw = self.draw(images.shape[0], size)
        last = tuple(range(-len(size), 0))
        moved = images if self.spatial_dims == last else images.movedim(self.spatial_dims, last)
        mixed = self.apply(Inputs(moved, targets, self.num_classes, masks, indices), draw)
        result = mixed.images
        if result is moved:
            result = images
        elif moved is not images:
            result = result.movedim(last, self.spatial_dims)
        return MixedBatch(
            images=result,
            targets=mixed.targets,
            lam=mixed.lam,
            labels=targets if mixed.labels is None else mixed.labels,
            draw=draw,
            boxes=mixed.boxes,
            history_probs=mixed.history_probs,
            masks=mixed.masks,
        )

    @eager
    def draw(self, batch_size: int, size: Sequence[int]) -> Draw:
        """Draw for a batch of ``batch_size`` images whose mixed dimensions have this size, (H, W)."""
        if batch_size < 1 or len(size) != len(self.spatial_dims) or min(size) < 1:
            raise ValueError(
                f"draw needs a batch of at least 1 and {len(self.spatial_dims)} sizes of at least 1, "
                f"got {batch_size} and {tuple(size)}"
            )
        return self.make_draw(batch_size, tuple(size), self.stream.generator)

    # -- the loss -------------------------------------------------------------------------------

    def loss(self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None) -> Tensor:
        """Return the total loss of a step, a scalar: the sum of `losses`."""
        return torch.stack(list(self.losses(logits, batch, region_logits).values())).sum()

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the terms of the loss by name, already weighted.

        Args:
            logits: (B, K) of the main head.
            batch: The batch that this mixer returned.
            region_logits: (B, K) of the region head, for a mixer that trains one.
        """
        if region_logits is not None:
            raise ValueError(
                f"{type(self).__name__} trains no regions, so its loss takes no region_logits: call "
                f"loss(logits, batch)"
            )
        return {"label": self.label_loss(logits, batch)}

    def label_loss(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        """Return the mean loss against the mixed, smoothed labels, a scalar."""
        return self.mean_loss(logits, batch.targets)

    def mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of (B, K) logits against (B, K) targets, smoothed and with class weights."""
        if self.class_weights is None:
            return self.sample_losses(logits, smoothed(targets, self.label_smoothing)).mean()
        check_logits(logits, targets.shape, "the loss")
        self.class_weights = self.class_weights.to(logits.device)
        if self.loss_name == "ce":
            return mean_weighted_cross_entropy(logits, targets, self.class_weights, self.label_smoothing)
        targets = smoothed(targets, self.label_smoothing)
        return soft_binary_cross_entropy(logits, targets, self.class_weights).mean()

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the (B,) losses of (B, K) logits against (B, K) targets: cross-entropy or binary."""
        check_logits(logits, targets.shape, "the loss")
        if self.loss_name == "ce":
            return soft_cross_entropy(logits, targets)
        return soft_binary_cross_entropy(logits, targets)

    # -- switches and state ---------------------------------------------------------------------

    @property
    def mixup_enabled(self) -> bool:
        """`enabled`, under the name that timm's training script sets."""
        return self.enabled

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        self.enabled = value

    def train(self, mode: bool = True) -> Self:
        """Mix (True), or pass batches through and remember nothing (False), as a module would."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Pass batches through; the history and the stream stay as they are."""
        return self.train(False)

    @property
    def stats(self) -> dict[str, int]:
        """Counters since construction; empty for a method that counts nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return all state as plain values and tensors, for ``torch.load(weights_only=True)``."""
        return {"mixer": type(self).__name__} | self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; for another rank's state see `Stream`."""
        if state.get("mixer") != type(self).__name__:
            raise ValueError(
                f"this is the state of {state.get('mixer', 'no mixer')}, it can't be loaded into "
                f"{type(self).__name__}"
            )
        self.stream.load_state_dict(state)
