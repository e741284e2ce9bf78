"""Mean teacher (Tarvainen & Valpola, arXiv 1703.01780): agree with an average of one's own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .batch import MixedBatch
from .draw import Draw, uniform
from .losses import probabilities, ramp_up, squared_difference
from .mixer import Inputs, Mixed, Mixer, in_range, loss_weight, unmixed


class MeanTeacher(Mixer):
    """Mixes nothing. The loss asks for the prediction of the teacher, an average of the network's weights.

    The network and the teacher each see the images with noise of their own, and drop units on their own.
    The teacher runs without gradients when the mixer is called; its prediction is
    ``batch.history_probs``. It is made from the network at the first call, and moves towards the network
    at the first call after each `remember`, when the optimiser has stepped.

    As in the authors' PyTorch code the teacher is in training mode: it normalises by the batch it sees.
    Its weights are averaged, its running statistics are its own.

    Args:
        model: the network that is trained, before any wrapping.
        decay: of the average, in [0, 1]; 0.999 in the paper. In step t it is at most ``1 - 1 / (t + 1)``.
        weight: of the consistency, 0 or more; 100 in the authors' code.
        rampup: epochs over which the weight rises as ``exp(-5 (1 - t)^2)``; 5 in the authors' PyTorch code.
        noise: standard deviation of the noise, in the units of the (normalised) images; 0.15 in the paper.
        others: see `Mixer`; ``prob`` is the share of batches with noise and consistency; ``per_sample`` has
            no meaning here, one draw serves a batch.
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
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise is a standard deviation and must be 0 or more, got {noise}")
        self.noise = noise
        self.model = model
        self.teacher: nn.Module | None = None
        """The averaged network; None before the first step."""
        self._epochs = 0
        self._steps = 0
        self._behind = False  # a step was made that is not averaged yet

    @property
    def epoch(self) -> int:
        """The running epoch, from 0, as `start_epoch` has counted."""
        return max(self._epochs - 1, 0)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        chosen = bool(uniform(1, 1, generator) < self.prob)
        seed = torch.randint(2**62, (1,), generator=generator)
        return Draw(noise_seed=seed) if chosen else Draw()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
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
        images, seed = inputs.images, int(draw.noise_seed)  # of a tensor on the CPU
        generator = torch.Generator(images.device).manual_seed(seed)
        noise = [self._noise_like(images, generator) for _ in range(2 if self.noise > 0 else 0)]
        seen = images + noise[1] if noise else images
        if noise:
            result = result._replace(images=images.add_(noise[0]) if self.inplace else images + noise[0])
        seen = seen.movedim(tuple(range(-len(self.spatial_dims), 0)), self.spatial_dims)
        with torch.no_grad(), _own_randomness(seed, images.device):
            output = self.teacher(seen)
        logits = output if isinstance(output, Tensor) else output.logits
        return result._replace(history_probs=probabilities(logits, self.loss_name))

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``label`` and ``consistency``, the squared difference to the teacher, averaged over the batch."""
        losses = super().losses(logits, batch, region_logits)
        if batch.history_probs is None:
            return losses | {"consistency": torch.zeros_like(losses["label"])}
        difference = squared_difference(probabilities(logits, self.loss_name), batch.history_probs)
        factor = self.weight * ramp_up(self.epoch, self.rampup)
        return losses | {"consistency": factor * difference.mean()}

    def remember(self, batch: MixedBatch, logits: Tensor | None = None) -> None:
        """Note that a step was made; the teacher moves at the next call, when the optimiser has stepped.

        Args:
            batch: what this mixer returned.
            logits: not needed.
        """
        if not self.enabled:
            self.reset()  # an average of old weights is no teacher by the time it is asked again
        self._behind = self.enabled and (self.training or self._behind)

    def reset(self) -> None:
        """Forget the teacher; the next one starts as the network is then. The epochs stay counted."""
        self.teacher, self._steps, self._behind = None, 0, False

    def start_epoch(self) -> None:
        """Count the epoch, by which the weight of the consistency rises."""
        self._epochs += 1

    def state_dict(self) -> dict[str, Any]:
        teacher = None
        if self.teacher is not None:
            teacher = {name: value.clone() for name, value in self.teacher.state_dict().items()}
        own = {"teacher": teacher, "epochs": self._epochs, "steps": self._steps, "behind": self._behind}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken; the network is to be loaded on its own.

        The teacher is also taken over from another rank, since all of them train the same weights.
        """
        super().load_state_dict(state)
        self.reset()
        self._epochs, self._steps, self._behind = state["epochs"], state["steps"], state["behind"]
        if state["teacher"] is not None:
            self.teacher = self._copied()
            self.teacher.load_state_dict(state["teacher"])

    def _catch_up(self) -> None:
        """Make the teacher, or move it towards the network if that has made a step."""
        if self.teacher is None:
            self.teacher, self._behind = self._copied(), False
        own, students = next(self.teacher.parameters()), next(self.model.parameters())
        if own.device != students.device:
            self.teacher.to(students.device)
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

    def _noise_like(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        return noise * self.noise


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """What a network drops in here depends on the seed alone, and nothing outside on that it ran."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
