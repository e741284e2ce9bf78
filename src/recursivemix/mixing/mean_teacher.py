"""Mean teacher (Tarvainen & Valpola, arXiv 1703.01780): agree with an average of the network's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .batch import Inputs, Mixed, MixedBatch, unmixed
from .checks import in_range, loss_weight, non_negative
from .draw import Draw, random_integer, uniform
from .eager import eager
from .losses import probabilities, ramp_up, squared_difference
from .mixer import Mixer


class MeanTeacher(Mixer):
    """Mix nothing; compare each prediction with that of a teacher, an average of the network's weights.

    The network and the teacher see the images with different noise and dropout. The teacher runs without
    gradients when the mixer is called; its prediction is ``batch.history_probs``. It is copied from the
    network at the first call, and updated at the first call after each `remember`, when the optimizer has
    stepped.

    As in the authors' PyTorch code the teacher is in training mode: it normalizes by the batch it sees. Its
    weights are averaged; its running statistics are not.

    Args:
        model: The network that is trained, before any wrapping.
        decay: Decay of the average, in [0, 1]; 0.999 in the paper. In step t at most ``1 - 1 / (t + 1)``.
        weight: Weight of the consistency, 0 or more; 100 in the authors' code.
        rampup: Epochs over which the weight rises as ``exp(-5 (1 - t)^2)``; 5 in the authors' PyTorch code.
        noise: Standard deviation of the noise, in the units of the (normalized) images; 0.15 in the paper.
        others: See `Mixer`; ``prob`` is the share of batches with noise and consistency; ``per_sample`` has
            no meaning here, since there is one draw per batch.
    """

    draws = ("noise_seed",)
    needs_model = True

    def __init__(
        self,
        num_classes: int,
        model: nn.Module,
        *,
        decay: float = 0.999,
        weight: float = 100.0,
        rampup: float = 5,
        noise: float = 0.15,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        self.decay = in_range("decay", decay, 0, 1)
        self.weight = loss_weight("weight", weight)
        self.rampup = in_range("rampup", rampup, 0, float("inf"))
        self.noise = non_negative("noise", noise, "a standard deviation")
        self.model = model
        self.teacher: nn.Module | None = None
        """The averaged network; None before the first step."""
        self._epochs = 0
        self._steps = 0
        self._behind = False  # a step was made that is not averaged yet

    @property
    def epoch(self) -> int:
        """The current epoch, from 0, as counted by `start_epoch`."""
        return max(self._epochs - 1, 0)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        chosen = bool(uniform(1, 1, generator) < self.prob)
        seed = random_integer(2**62, generator)
        return Draw(noise_seed=seed) if chosen else Draw()

    @eager
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        result = unmixed(inputs)
        if self.enabled and self.training:
            self._catch_up()
        if draw.noise_seed is None or self.teacher is None:
            return result
        if self.noise > 0 and not inputs.images.is_floating_point():
            raise ValueError(
                f"noise is added to floating, normalised images, got {inputs.images.dtype}; convert them "
                f"first, or give noise=0"
            )
        images, seed = inputs.images, int(draw.noise_seed)  # a tensor on the CPU
        generator = torch.Generator("cpu" if images.is_meta else images.device).manual_seed(seed)
        noise = [self._noise_like(images, generator) for _ in range(2 if self.noise > 0 else 0)]
        seen = images + noise[1] if noise else images
        if noise:
            result = result._replace(images=images.add_(noise[0]) if self.inplace else images + noise[0])
        seen = seen.movedim(tuple(range(-len(self.spatial_dims), 0)), self.spatial_dims)
        with torch.no_grad(), _isolated_randomness(seed, images.device):
            output = self.teacher(self._fitted(seen))
        logits = output if isinstance(output, Tensor) else output.logits
        return result._replace(history_probs=probabilities(logits, self.loss_name))

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``label`` and ``consistency``, the mean squared difference to the teacher."""
        losses = super().losses(logits, batch, region_logits)
        if batch.history_probs is None:
            return losses | {"consistency": torch.zeros_like(losses["label"])}
        difference = squared_difference(probabilities(logits, self.loss_name), batch.history_probs)
        factor = self.weight * ramp_up(self.epoch, self.rampup)
        return losses | {"consistency": factor * difference.mean()}

    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Record a finished step; the teacher is updated at the next call, when the optimizer has stepped.

        Args:
            batch: what this mixer returned.
            logits: not needed.
        """
        if not self.enabled:
            self.reset()  # its weights would be old by the time mixing is switched on again
        self._behind = self.enabled and (self.training or self._behind)

    def reset(self) -> None:
        """Forget the teacher; the next one is a copy of the network. The epochs stay counted."""
        self.teacher, self._steps, self._behind = None, 0, False

    def start_epoch(self) -> None:
        """Count the epoch, by which the weight of the consistency rises."""
        self._epochs += 1

    def state_dict(self) -> dict[str, Any]:
        teacher = None
        if self.teacher is not None:
            teacher = {name: value.clone() for name, value in self.teacher.state_dict().items()}
        counters = {"epochs": self._epochs, "steps": self._steps, "behind": self._behind}
        return super().state_dict() | {"teacher": teacher} | counters

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; load the network separately.

        The teacher of another rank is restored as well, since all ranks train the same weights.
        """
        super().load_state_dict(state)
        self.reset()
        self._epochs, self._steps, self._behind = state["epochs"], state["steps"], state["behind"]
        if state["teacher"] is not None:
            self.teacher = self._copied()
            self.teacher.load_state_dict(state["teacher"])

    def _catch_up(self) -> None:
        """Make the teacher, or update it if the network has made a step."""
        if self.teacher is None:
            self.teacher, self._behind = self._copied(), False
        device = next(self.model.parameters()).device
        if next(self.teacher.parameters()).device != device:
            self.teacher.to(device)
        if self._behind:
            self._steps += 1
            decay = min(1 - 1 / (self._steps + 1), self.decay)
            average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            average(list(self.teacher.parameters()), list(self.model.parameters()), None)
        self._behind = False

    def _copied(self) -> nn.Module:
        teacher = copy.deepcopy(self.model).train().requires_grad_(False)
        for parameter in teacher.parameters():
            parameter.grad = None
        return teacher

    def _fitted(self, images: Tensor) -> Tensor:
        """Return floating images in the dtype of the network's weights; check their device."""
        weight = next(self.model.parameters())
        if weight.device != images.device:
            raise ValueError(
                f"images are on {images.device}, the network on {weight.device}: move them to one device"
            )
        floating = images.is_floating_point() and weight.is_floating_point()
        return images.to(weight.dtype) if floating else images

    def _noise_like(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        return noise * self.noise


@contextmanager
def _isolated_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Run with an isolated, seeded random state; the global one is untouched."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
