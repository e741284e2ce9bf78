"""What every mixer shares: the door (validation), the random stream, and one call for all methods.

A method says what it draws and how a draw is applied; everything else is here, so that code which
trains never asks which method it holds.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from .batch import MixedBatch
from .boxes import INTERPOLATIONS, Interpolation
from .draw import Draw, process_rank, seeded_generator
from .losses import smoothed, soft_binary_cross_entropy, soft_cross_entropy

Loss = Literal["ce", "bce"]
log = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """A validated batch, as a method's ``apply`` sees it."""

    images: Tensor
    """(B, C, ..., S1, ..., Sd): the mixed dimensions moved last, a view of the caller's images."""
    targets: Tensor
    """(B, K) float32: the batch's own labels."""
    masks: Tensor | None
    """(B, S1, ..., Sd) integers."""
    indices: Tensor | None = None
    """(B,) int64 on the CPU: which sample of the data set each one is."""
    labels: Tensor | None = None
    """The labels as they came in, for a method that puts other samples in their places."""


class Mixed(NamedTuple):
    """What a method's ``apply`` gives back; images and masks laid out as in `Inputs`."""

    images: Tensor
    targets: Tensor
    lam: Tensor
    boxes: Tensor | None = None
    history_probs: Tensor | None = None
    masks: Tensor | None = None
    labels: Tensor | None = None
    """Where samples were replaced: the labels of what stands there now, of the kind that came in."""


class Mixer(ABC):
    """Base of every mixer: ``batch = mixer(images, labels)``.

    Args:
        num_classes: K, the width of the targets.
        prob: share of the batches that are mixed; of the samples with ``per_sample``. In [0, 1].
        per_sample: draw for every sample instead of once for the batch.
        inplace: write into the images (and masks) given, for a loop that owns its batch.
        loss: "ce" for one label a picture, "bce" for several (multi-hot targets).
        label_smoothing: share of each label that is spread over all classes, in [0, 1); in the label loss
            alone, so that targets stay shares of pixels and the history's predictions stay as they were.
        spatial_dims: the dimensions that are mixed, negative, ascending; (-2, -1) is height and width.
        seed: of this mixer's own random stream.
        rank: of this process, part of the seed; None asks torch.distributed, then the launcher.
        sync_ranks: every rank draws the same (as the authors' code does).
    """

    draws: tuple[str, ...] = ()
    """The fields of `Draw` that this method makes and applies, in the order of `Draw`."""
    blends: bool = False
    """Whether a pixel may be a blend of two images, so that masks can't go along."""
    needs_model: bool = False
    """Whether the constructor takes the network as its second argument: the method works inside it."""

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
        spatial_dims: Sequence[int] = (-2, -1),
        seed: int = 0,
        rank: int | None = None,
        sync_ranks: bool = False,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if loss not in ("ce", "bce"):
            raise ValueError(f"loss must be 'ce' or 'bce', got {loss!r}")
        dims = tuple(spatial_dims)
        if not 1 <= len(dims) <= 3 or any(d >= 0 for d in dims) or sorted(set(dims)) != list(dims):
            raise ValueError(
                f"spatial_dims must be 1 to 3 different negative dimensions in ascending order, as in "
                f"(-2, -1), got {dims}"
            )
        self.num_classes = num_classes
        self.prob = in_range("prob", prob, 0, 1)
        self.per_sample = per_sample
        self.inplace = inplace
        self.loss_name: Loss = loss
        self.label_smoothing = in_range("label_smoothing", label_smoothing, 0, 1)
        self.spatial_dims = dims
        self.seed = seed
        self.rank = rank
        self.sync_ranks = sync_ranks
        self.enabled = True
        self.training = True
        # Made at the first draw: a process often learns its rank after it has built its mixer.
        self._generator: torch.Generator | None = None

    # -- what a method defines ------------------------------------------------------------------

    @abstractmethod
    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        """Draw for one batch whose mixed dimensions have this size. The only use of randomness."""

    @abstractmethod
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        """Mix by a draw; deterministic, and writes into the inputs only with ``inplace``."""

    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Take note of a finished step. A method without a history has nothing to keep.

        Args:
            batch: what this mixer returned for the step.
            logits: (B, K) of the main head for ``batch.images``.
        """

    def reset(self) -> None:
        """Forget the history; the random stream goes on."""

    def start_epoch(self) -> None:
        """To be called as an epoch begins; a method decides what that means for its history."""

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
            images: (B, C, ..., H, W), any B >= 1, floating or uint8, normalised or not. Not written to
                unless ``inplace``. Where nothing is mixed the result holds this very tensor.
            targets: (B,) class indices, or (B, K) one-hot, soft or multi-hot.
            draw: a `Draw` to replay; None draws from this mixer's stream.
            masks: (B, H, W) integers or bools that get the same draw, pasted and never blended.
            indices: (B,) int64 on the CPU, which sample of the data set each one is; for a method that
                remembers something of every sample, unused by the others.

        Raises:
            ValueError: an input of another kind; the message says what came and what is allowed.
        """
        self._check_images(images, targets, masks)
        self._check_indices(indices, len(images))
        one_hot = self._soft_targets(targets, len(images))
        size = tuple(images.shape[d] for d in self.spatial_dims)
        if draw is not None:
            self._check_draw(draw, len(images), size)
        if not (self.enabled and self.training):
            draw = Draw()
        elif draw is None:
            draw = self.draw(len(images), size)
        d = len(self.spatial_dims)
        last = tuple(range(-d, 0))
        moved = images if self.spatial_dims == last else images.movedim(self.spatial_dims, last)
        mixed = self.apply(Inputs(moved, one_hot, masks, indices, targets), draw)
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

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def draw(self, batch_size: int, size: Sequence[int]) -> Draw:
        """Draw for a batch of ``batch_size`` images whose mixed dimensions have this size, (H, W)."""
        if batch_size < 1 or len(size) != len(self.spatial_dims) or min(size) < 1:
            raise ValueError(
                f"draw needs a batch of at least 1 and {len(self.spatial_dims)} sizes of at least 1, "
                f"got {batch_size} and {tuple(size)}"
            )
        return self.make_draw(batch_size, tuple(size), self._stream())

    # -- the loss -------------------------------------------------------------------------------

    def loss(self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None) -> Tensor:
        """The total loss of a step, a scalar: the sum of `losses`."""
        return torch.stack(list(self.losses(logits, batch, region_logits).values())).sum()

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of the loss by name, already weighted.

        Args:
            logits: (B, K) of the main head.
            batch: what this mixer returned.
            region_logits: (B, K) of the region head, for a mixer that trains one.
        """
        if region_logits is not None:
            raise ValueError(
                f"{type(self).__name__} trains no regions, so its loss takes no region_logits: call "
                f"loss(logits, batch)"
            )
        return {"label": self.label_loss(logits, batch)}

    def label_loss(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        """The mean loss against the mixed, smoothed labels, a scalar."""
        return self.sample_losses(logits, smoothed(batch.targets, self.label_smoothing)).mean()

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,) losses of (B, K) logits against (B, K) targets, of the kind this mixer was told."""
        if logits.shape != targets.shape:
            raise ValueError(
                f"logits must have the targets' shape {tuple(targets.shape)}, got "
                f"{tuple(logits.shape)}; is num_classes={self.num_classes} the model's?"
            )
        if self.loss_name == "ce":
            return soft_cross_entropy(logits, targets)
        return soft_binary_cross_entropy(logits, targets)

    # -- switches and state ---------------------------------------------------------------------

    @property
    def mixup_enabled(self) -> bool:
        """`enabled` under the name that timm's training script switches."""
        return self.enabled

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        self.enabled = value

    def train(self, mode: bool = True) -> Self:
        """Mix (True) or pass batches through and remember nothing (False), as a module would."""
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
        """Everything that must last: plain values and tensors, for ``torch.load(weights_only=True)``."""
        return {
            "mixer": type(self).__name__,
            "generator": self._stream().get_state(),
            "rank": self._stream_rank(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken.

        The state of another rank, which frameworks hand to every process when they save the first one's
        alone, gives this rank a stream of its own that follows from it, and no history.
        """
        if state.get("mixer") != type(self).__name__:
            raise ValueError(
                f"this is the state of {state.get('mixer', 'no mixer')}, it can't be loaded into "
                f"{type(self).__name__}"
            )
        self._stream().set_state(state["generator"].cpu())
        if not self._is_own(state):
            log.warning(
                "The mixer's state is of rank %d, this is rank %d: no history is taken over. "
                "Save one state a process to resume exactly.",
                state["rank"],
                self._stream_rank(),
            )
            follow = int(torch.randint(2**62, (1,), generator=self._stream()))
            self._generator = seeded_generator(follow, self._stream_rank())

    def _is_own(self, state: dict[str, Any]) -> bool:
        return bool(state["rank"] == self._stream_rank())

    def _stream_rank(self) -> int:
        if self.sync_ranks:
            return 0
        return process_rank() if self.rank is None else self.rank

    def _stream(self) -> torch.Generator:
        if self._generator is None:
            self._generator = seeded_generator(self.seed, self._stream_rank())
        return self._generator

    # -- the door -------------------------------------------------------------------------------

    def _check_images(self, images: Tensor, targets: Tensor, masks: Tensor | None) -> None:
        for name, value in (("images", images), ("targets", targets), ("masks", masks)):
            if value is None and name == "masks":
                continue
            if not isinstance(value, Tensor):
                raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
            if value.device != images.device:
                raise ValueError(
                    f"{name} are on {value.device}, images on {images.device}: move the whole batch first"
                )
        least = max(2 + len(self.spatial_dims), 1 - min(self.spatial_dims))
        if images.dim() < least or images.numel() == 0:
            raise ValueError(
                f"images must be a batch with channels, (B, C, H, W) or more dimensions, none empty, "
                f"for spatial_dims={self.spatial_dims}; got shape {tuple(images.shape)}"
            )
        if not images.is_floating_point() and images.dtype != torch.uint8:
            raise ValueError(
                f"images must be floating or uint8, got {images.dtype}; convert with .float() or .byte()"
            )
        if masks is None:
            return
        expected = (len(images), *(images.shape[d] for d in self.spatial_dims))
        if masks.shape != expected or masks.is_floating_point() or masks.is_complex():
            raise ValueError(
                f"masks must be integers of shape {expected}, as the images, got {masks.dtype} of shape "
                f"{tuple(masks.shape)}"
            )

    def _check_indices(self, indices: Tensor | None, batch_size: int) -> None:
        if indices is None:
            return
        if indices.shape != (batch_size,) or indices.dtype != torch.int64 or indices.device.type != "cpu":
            raise ValueError(
                f"indices must be ({batch_size},) int64 on the CPU, which sample of the data each image "
                f"is; got {indices.dtype} of shape {tuple(indices.shape)} on {indices.device}"
            )

    def _soft_targets(self, targets: Tensor, batch_size: int) -> Tensor:
        """(B, K) float32 from every kind of label that is allowed."""
        k = self.num_classes
        if targets.shape == (batch_size, k):
            return targets.to(torch.float32)
        if targets.shape != (batch_size,) or targets.is_floating_point() or targets.is_complex():
            raise ValueError(
                f"targets must be ({batch_size},) class indices or ({batch_size}, {k}) one-hot, soft or "
                f"multi-hot labels for {batch_size} images and num_classes={k}, got {targets.dtype} of "
                f"shape {tuple(targets.shape)}"
            )
        # Elsewhere reading the values would wait for the device; scatter_ checks them there.
        if targets.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(v) for v in targets.aminmax())
            if low < 0 or high >= k:
                raise ValueError(
                    f"class indices must be in 0..{k - 1} for num_classes={k}, got {low}..{high}"
                )
        one_hot = torch.zeros(batch_size, k, device=targets.device)
        return one_hot.scatter_(1, targets.long()[:, None], 1.0)

    def _check_draw(self, draw: Draw, batch_size: int, size: tuple[int, ...]) -> None:
        given = tuple(name for name, value in draw._asdict().items() if value is not None)
        if given and given != self.draws:
            raise ValueError(
                f"{type(self).__name__} draws {' and '.join(self.draws) or 'nothing'}, got a draw of "
                f"{' and '.join(given)}: was it another mixer's?"
            )
        d = len(size)
        row_shapes: dict[str, tuple[int, ...]] = {"boxes": (2 * d,), "weights": size}
        limits = {
            "boxes": torch.tensor(size[::-1]),
            "partners": torch.tensor(batch_size - 1),
            "layer": torch.tensor(torch.iinfo(torch.int64).max),
            "noise_seed": torch.tensor(torch.iinfo(torch.int64).max),
        }
        for name in given:
            value: Tensor = getattr(draw, name)
            counts = {"partners": (batch_size,), "layer": (1,), "noise_seed": (1,)}.get(
                name, (1, batch_size)
            )
            shapes = [(n, *row_shapes.get(name, ())) for n in counts]
            kind = torch.float32 if name in ("lam", "weights") else torch.int64
            if value.shape not in shapes or value.device.type != "cpu" or value.dtype != kind:
                raise ValueError(
                    f"draw.{name} does not fit a batch of {batch_size}: got {value.dtype}, shape "
                    f"{tuple(value.shape)}, {value.device}; make one with mixer.draw({batch_size}, {size})"
                )
            low, high = (value[:, :d], value[:, d:]) if name == "boxes" else (value, value)
            limit = limits.get(name, torch.tensor(1.0))
            if (low < 0).any() or (high > limit).any() or (high < low).any():
                raise ValueError(
                    f"draw.{name} must lie inside the image of size {size}, the batch of {batch_size}, or "
                    f"[0, 1]; replay a draw on a batch of the size it was drawn for"
                )


def unmixed(inputs: Inputs) -> Mixed:
    """The batch as it came, ``lam`` 1."""
    lam = torch.ones(len(inputs.images), device=inputs.images.device)
    return Mixed(inputs.images, inputs.targets, lam, masks=inputs.masks)


def mix_rows(lam: Tensor, current: Tensor, other: Tensor) -> Tensor:
    """``lam * current + (1 - lam) * other`` for (B,) weights and (B, K) rows."""
    lam = lam[:, None]
    return lam * current + (1 - lam) * other


def beta_parameter(alpha: float) -> float:
    """``alpha`` as it came, if it is a Beta parameter."""
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha is a Beta parameter and must be above 0 and finite, got {alpha}")
    return float(alpha)


def in_range(name: str, value: float, low: float, high: float) -> float:
    """``value`` as it came, if it lies in [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
    return float(value)


def loss_weight(name: str, value: float) -> float:
    """``value`` as it came, if it can weigh a loss."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is the weight of a loss and must be 0 or more, got {value}")
    return float(value)


def known_interpolation(value: Interpolation) -> Interpolation:
    """``value`` as it came, if it is one of the interpolations there are."""
    if value not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {value!r}")
    return value
