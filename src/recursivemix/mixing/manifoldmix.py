"""ManifoldMix (Verma et al., arXiv 1806.05236): MixUp of the hidden states of a layer drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .batch import Inputs, Mixed, MixedBatch, unmixed
from .blend import blend_partners
from .checks import beta_parameter
from .draw import Draw, as_column, as_number, gated_lam, random_integer, random_partners
from .eager import eager
from .hooks import NextPass, blend_hidden, find_stages, mixing, stages_of
from .labels import fuse_partners, lam_rows
from .mixer import Mixer


class ManifoldMix(Mixer):
    """Draw a layer for each batch; blend its output as `MixUp` blends images, and blend the labels.

    Layer 0 is the input, mixed as `MixUp` does. Every other batch leaves the mixer with unmixed images and
    mixed targets; hooks mix it in the network's next pass in training mode.

    Args:
        model: The network that is trained, before any wrapping (DDP, compile, `RegionModel`).
        alpha: Beta parameter, above 0; 2.0 in the paper.
        layers: Names of submodules, as in ``model.named_modules()``, whose output may be mixed. None takes
            the first half of the network's stages (see `recursivemix.mixing.hooks.find_stages`), rounded
            up: two of a ResNet's three or four, which with the input are the paper's layers {0, 1, 2}.
        others: See `Mixer`.
    """

    draws = ("lam", "partners", "layer")
    blends = True
    needs_model = True

    def __init__(
        self,
        num_classes: int,
        model: nn.Module,
        *,
        alpha: float = 2.0,
        layers: Sequence[str] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)
        if layers is None:
            stages = find_stages(model)
            layers = stages[: (len(stages) + 1) // 2]
        self.layers = tuple(layers)
        self.model = model
        self._stages = stages_of(model, self.layers)
        self._next_pass = NextPass(model, self._stages)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        lam = as_column(gated_lam(self.alpha, self.prob, count, generator))
        partners = random_partners(batch_size, generator)
        layer = random_integer(1 + len(self.layers), generator)
        return Draw(lam=lam, partners=partners, layer=layer)

    @eager
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        self._next_pass.clear()
        if draw.lam is None or draw.partners is None or draw.layer is None:
            return unmixed(inputs)
        layer = int(draw.layer)  # a tensor on the CPU
        if layer > len(self.layers):
            raise ValueError(
                f"draw.layer is {layer}, and this mixer has the input, 0, and {len(self.layers)} layers"
            )
        if layer == 0 or inputs.masks is not None:
            return blend_partners(inputs, draw, inplace=self.inplace)
        images, device = inputs.images, inputs.images.device
        lam = as_number(draw.lam)
        rows = lam_rows(lam, len(images), device)
        partners = draw.partners.to(device, non_blocking=True)
        mix = partial(blend_hidden, lam=rows, partners=partners)
        self._next_pass.prepare(self._stages[layer - 1], len(images), mixing(mix, len(images)))
        return Mixed(images, fuse_partners(inputs.labels, inputs.num_classes, lam, partners), rows)

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``label``; raise if the network has not run since the call, as nothing is mixed then."""
        self._next_pass.check_done()
        return super().losses(logits, batch, region_logits)
