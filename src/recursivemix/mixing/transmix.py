"""TransMix (Chen et al., arXiv 2111.09833): CutMix whose labels follow the class token's attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .batch import Inputs, Mixed, MixedBatch
from .checks import in_range
from .cutmix import CutMix
from .draw import Draw
from .eager import eager
from .hooks import NextPass
from .labels import fuse_partners
from .paste import inside


class TransMix(CutMix):
    """Mix images as `CutMix`; in the loss, ``lam`` is the attention that the current image's patches get.

    The attention is that of the class token in the last block, averaged over the heads, detached, from
    the same pass as the logits. ``batch.targets`` and ``batch.lam`` are still shares of pixels.

    Args:
        model: A vision transformer with a class token, as timm's ``VisionTransformer``, before wrapping.
        alpha: Beta parameter of CutMix, above 0; 1.0 in the paper, after timm's recipe for DeiT.
        area_share: Weight in [0, 1] of the share of pixels in the label's ``lam``; the rest is the
            attention's. 0 is the paper's equation; the authors' code averages the two, 0.5.
        others: See `Mixer`.

    Raises:
        ValueError: The network has no class token, or no attention of a known kind.
    """

    needs_model = True

    def __init__(
        self,
        num_classes: int,
        model: nn.Module,
        *,
        alpha: float = 1.0,
        area_share: float = 0.0,
        **others: Any,
    ) -> None:
        super().__init__(num_classes, alpha=alpha, **others)
        self.area_share = in_range("area_share", area_share, 0, 1)
        self.model = model
        self._attention = last_attention(model)
        self._prefix_tokens = int(getattr(model, "num_prefix_tokens", 1))
        self._next_pass = NextPass(model, [self._attention])
        self._captured: Tensor | None = None

    @eager
    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        self._next_pass.clear()
        self._captured = None
        if draw.boxes is not None:
            self._next_pass.prepare(self._attention, len(inputs.images), self._capture)
        return super().apply(inputs, draw)

    def losses(
        self, logits: Tensor, batch: MixedBatch, region_logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``label``, against the labels weighted by attention; call it after the network's pass."""
        losses = super().losses(logits, batch, region_logits)
        if batch.draw.boxes is None or batch.draw.partners is None:
            return losses
        self._next_pass.check_done()
        if self._captured is None or len(self._captured) != len(batch.images):
            raise ValueError(
                "the attention at hand is of another batch: take the loss before the mixer's next call"
            )
        attended = self.attended(batch, self._captured)
        lam = self.area_share * batch.lam + (1 - self.area_share) * attended
        partners = batch.draw.partners.to(lam.device, non_blocking=True)
        targets = fuse_partners(batch.labels, self.num_classes, lam, partners)
        return {"label": self.mean_loss(logits, targets)}

    def attended(self, batch: MixedBatch, attention: Tensor) -> Tensor:
        """Return (B,) float32: the share of (B, patches) attention on patches that were not pasted over."""
        size = tuple(batch.images.shape[-2:])
        if self.spatial_dims != (-2, -1) or batch.images.dim() != 4 or batch.draw.boxes is None:
            raise ValueError(
                f"TransMix needs (B, C, H, W) images mixed along (-2, -1), got shape "
                f"{tuple(batch.images.shape)} and spatial_dims={self.spatial_dims}"
            )
        rows = round(math.sqrt(attention.shape[1] * size[0] / size[1]))
        if rows < 1 or attention.shape[1] % rows:
            raise ValueError(f"{attention.shape[1]} patches form no grid with the aspect of {size} images")
        pasted = inside(batch.draw.boxes.to(attention.device, non_blocking=True), size)
        grid = (rows, attention.shape[1] // rows)
        pasted = interpolate(pasted[:, None].float(), grid, mode="nearest").flatten(1)  # (1 or B, patches)
        return ((1 - pasted) * attention).sum(1) / attention.sum(1)

    def _capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if any(v is not None and v is not False for v in (*args[1:], *kwargs.values())):
            raise ValueError(
                "the last block's attention was called with more than its tokens (a mask, rotary "
                "positions), which TransMix does not support: use CutMix"
            )
        attention = class_attention(self._attention, args[0])
        self._captured = attention[:, self._prefix_tokens :]


def last_attention(model: nn.Module) -> Any:
    """Return the attention of a vision transformer's last block, if its class token is classified."""
    blocks = getattr(model, "blocks", None)
    attention: Any = None
    if isinstance(blocks, (nn.Sequential, nn.ModuleList)):
        attention = getattr(blocks[-1], "attn", None)
    parts = ("qkv", "q_norm", "k_norm", "num_heads", "scale")
    known = all(hasattr(attention, name) for name in parts)
    if known:  # differential attention has these parts as well, but two maps per head
        known = math.isclose(
            attention.scale, (attention.qkv.out_features // (3 * attention.num_heads)) ** -0.5
        )
    pooling = getattr(model, "global_pool", "token")
    if not known or getattr(model, "cls_token", None) is None or pooling != "token":
        raise ValueError(
            f"TransMix reads the class token's attention in model.blocks[-1].attn with {', '.join(parts)}, "
            f"as timm's VisionTransformer has them with global_pool='token'; this {type(model).__name__} "
            f"has none that is classified. Use CutMix"
        )
    return attention


@torch.no_grad()
def class_attention(attention: Any, tokens: Tensor) -> Tensor:
    """Return (B, N) float32: the attention of the first of (B, N, C) tokens, averaged over the heads.

    Computed here from the module's input, since the fused attention that networks use keeps no weights.
    """
    count, heads = tokens.shape[1], attention.num_heads
    qkv = attention.qkv(tokens).view(len(tokens), count, 3, heads, -1)
    query = attention.q_norm(qkv[:, :1, 0].transpose(1, 2))  # (B, heads, 1, width)
    keys = attention.k_norm(qkv[:, :, 1].transpose(1, 2))  # (B, heads, N, width)
    scores = (query.float() * attention.scale) @ keys.float().mT
    weights: Tensor = scores.softmax(-1)
    return weights.mean(1)[:, 0]
