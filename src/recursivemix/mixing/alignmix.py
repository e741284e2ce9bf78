"""AlignMix (Venkataramanan et al., arXiv 2103.15375): feature maps are aligned before they are mixed."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .batch import Inputs, Mixed, MixedBatch, unmixed
from .blend import blend_partners
from .checks import beta_parameter, positive, whole_number
from .draw import Draw, as_column, as_number, gated_lam, random_integer, random_partners
from .eager import eager
from .hooks import NextPass, blend_hidden, find_stages, mixing, stages_of
from .labels import fuse_partners, lam_rows
from .mixer import Mixer

INPUT, ONTO_OWN, ONTO_PARTNER = range(3)
"""The values of ``draw.layer``: mix pixels; mix features, the partner's moved to the places of the current
image; mix features, the current image's moved to the places of the partner."""


class AlignMix(Mixer):
    """Mix half of the batches as `MixUp` does, and half in the last feature map, aligned.

    In the feature map, an optimal transport plan matches places of the partner's map to places of the
    current image's map. One of the two, drawn at random, is moved to the places of the other before they
    are blended: the result has the geometry of one image and features of both.

    Args:
        model: The network that is trained, before any wrapping.
        alpha: Beta parameter, above 0; 2.0 in the paper.
        layer: Name of the submodule whose output is the feature map; None takes the last stage (see
            `recursivemix.mixing.hooks.find_stages`).
        epsilon: Entropic regularization of the plan, above 0, in units of squared distances between
            features; 0.1 in the authors' code.
        iterations: Iterations of the Sinkhorn algorithm; 100 in the authors' code.
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
        layer: str | None = None,
        epsilon: float = 0.1,
        iterations: int = 100,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)
        self.epsilon = positive("epsilon", epsilon, "a weight of the entropy")
        self.iterations = whole_number("iterations", iterations, 1)
        self.layer = find_stages(model)[-1] if layer is None else layer
        self.model = model
        (self._stage,) = stages_of(model, [self.layer])
        self._next_pass = NextPass(model, [self._stage])

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        lam = as_column(gated_lam(self.alpha, self.prob, count, generator))
        partners = random_partners(batch_size, generator)
        layer = (random_integer(4, generator) - 1).clamp(min=INPUT)  # 1/2, 1/4, 1/4
        return Draw(lam=lam, partners=partners, layer=layer)

    @eager
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        self._next_pass.clear()
        if draw.lam is None or draw.partners is None or draw.layer is None:
            return unmixed(inputs)
        layer = int(draw.layer)  # a tensor on the CPU
        if layer > ONTO_PARTNER:
            raise ValueError(f"draw.layer must be 0, 1 or 2 for AlignMix, got {layer}")
        if layer == INPUT or inputs.masks is not None:
            return blend_partners(inputs, draw, inplace=self.inplace)
        images, device = inputs.images, inputs.images.device
        if images.dim() < 4:
            raise ValueError(
                f"AlignMix aligns maps of images (B, C, H, W), got shape {tuple(images.shape)}: use "
                f"ManifoldMix"
            )
        lam = as_number(draw.lam)
        rows = lam_rows(lam, len(images), device)
        partners = draw.partners.to(device, non_blocking=True)
        mix = partial(
            align_and_blend,
            lam=rows,
            partners=partners,
            onto_own=layer == ONTO_OWN,
            image_size=(images.shape[-2], images.shape[-1]),
            prefix_tokens=int(getattr(self.model, "num_prefix_tokens", 0)),
            epsilon=self.epsilon,
            iterations=self.iterations,
        )
        self._next_pass.prepare(self._stage, len(images), mixing(mix, len(images)))
        return Mixed(images, fuse_partners(inputs.labels, inputs.num_classes, lam, partners), rows)

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``label``; raise if the network has not run since the call, as nothing is mixed then."""
        self._next_pass.check_done()
        return super().losses(logits, batch, region_logits)


def align_and_blend(
    features: Tensor,
    lam: Tensor,
    partners: Tensor,
    *,
    onto_own: bool,
    image_size: tuple[int, int],
    prefix_tokens: int = 0,
    epsilon: float,
    iterations: int,
) -> Tensor:
    """Blend feature maps with their partners', one of the two moved to the places of the other.

    Args:
        features: (B, C, h, w), (B, h, w, C) where only that has the image's aspect, or (B, tokens, C).
        lam: (B,) float32, weight of the current image's features.
        partners: (B,) int64.
        onto_own: Move the partner's features to the places of the current image; else the other way round.
        image_size: (H, W) of the images, which tells the layouts apart.
        prefix_tokens: Tokens of a transformer without a place, such as the class token; blended unmoved.
        epsilon, iterations: See `transport_plan`.
    """
    places = _as_places(features, image_size, prefix_tokens)  # (B, r, C)
    other = places[partners]
    plan = transport_plan(places.detach(), other.detach(), epsilon, iterations)
    matches = (len(plan[0]) * plan).to(places.dtype)  # (B, r, r), rows and columns sum to 1
    weight = lam.to(places.dtype)[:, None, None]
    if onto_own:
        mixed = torch.lerp(matches @ other, places, weight)
    else:
        mixed = torch.lerp(other, matches.mT @ places, weight)
    if features.dim() == 3:
        return torch.cat([blend_hidden(features[:, :prefix_tokens], lam, partners), mixed], 1)
    if _channels_last(features, image_size):
        return mixed.view(features.shape)
    return mixed.mT.reshape(features.shape)


@torch.no_grad()
def transport_plan(a: Tensor, b: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Compute the entropic optimal transport between two sets of r equally weighted points, per sample.

    Minimizes ``<P, M> - epsilon H(P)`` over plans whose rows and columns sum to 1 / r, M the squared
    distances (paper, section 3.2), by Sinkhorn's iterations on logarithms, which cannot underflow.

    Args:
        a, b: (B, r, C).
        epsilon: Weight of the entropy, above 0.
        iterations: Iterations of the algorithm.

    Returns:
        (B, r, r) float32; columns sum to 1 / r exactly, rows as far as the iterations have converged.
    """
    with torch.autocast("cpu" if a.is_meta else a.device.type, enabled=False):
        a, b = a.float(), b.float()
        squares = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None, :]
        similarity = -(squares - 2 * a @ b.mT).clamp(min=0) / epsilon  # (B, r, r)
        # The first iteration would subtract what a row has in common anyway, less exactly.
        similarity = similarity - similarity.amax(2, keepdim=True)
        share = -math.log(a.shape[1])
        rows = columns = similarity.new_zeros(a.shape[:2])
        for _ in range(iterations):
            rows = share - torch.logsumexp(similarity + columns[:, None, :], 2)
            columns = share - torch.logsumexp(similarity + rows[:, :, None], 1)
        return torch.exp(similarity + rows[:, :, None] + columns[:, None, :])


def _as_places(features: Tensor, image_size: tuple[int, int], prefix_tokens: int) -> Tensor:
    """Return (B, r, C): the features of every place."""
    if features.dim() == 3:
        return features[:, prefix_tokens:]
    if features.dim() != 4:
        raise ValueError(
            f"AlignMix aligns feature maps (B, C, h, w) or tokens (B, N, C), got {tuple(features.shape)}; "
            f"name another submodule with layer="
        )
    return features.flatten(1, 2) if _channels_last(features, image_size) else features.flatten(2).mT


def _channels_last(features: Tensor, image_size: tuple[int, int]) -> bool:
    _, a, b, c = features.shape
    height, width = image_size
    return a * width == b * height and b * width != c * height
