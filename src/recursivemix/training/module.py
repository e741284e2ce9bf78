"""One training step for every mixing method, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy

from recursivemix.mixing import MixedBatch, create_mixer
from recursivemix.models.create import create_model
from recursivemix.models.region import RegionModel

Batch = tuple[Tensor, Tensor]


class MixedClassifier(LightningModule):
    """A classifier trained on mixed batches; all arguments are plain values that a checkpoint can hold.

    Args:
        model: see `recursivemix.models.create.create_model`.
        classes: names of the K classes, in the order of their indices.
        image_size: pixels a side.
        mixer: a name in `recursivemix.mixing.MIXERS`.
        mixer_options: keyword arguments of that mixer.
        region_head: see `RegionModel`; used by mixers that train regions.
        lr: peak learning rate of SGD (Nesterov) for the whole batch.
        momentum, weight_decay: of SGD.
        warmup: share of the run over which the rate rises linearly, before it falls by a cosine to 0.
        seed: of the mixer's stream.
        data: how the images were prepared, for `recursivemix test`.
    """

    def __init__(
        self,
        model: str,
        classes: Sequence[str],
        image_size: int,
        mixer: str,
        mixer_options: dict[str, Any] | None = None,
        region_head: Literal["separate", "shared"] = "separate",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        warmup: float = 0.05,
        seed: int = 0,
        *,
        data: dict[str, Any],
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        options = {"seed": seed} | (mixer_options or {})
        self.mixer = create_mixer(mixer, len(classes), **options)
        self.network: nn.Module = create_model(model, len(classes), image_size)
        if self.mixer.trains_regions:
            size = (image_size, image_size)
            self.network = RegionModel(self.network, region_head=region_head, image_size=size)
        # The layout that convolutions are fastest in, on CPUs and on GPUs in half precision.
        self.network = self.network.to(memory_format=torch.channels_last)
        self.watch: Callable[[MixedBatch], None] | None = None
        """Is shown every mixed batch, for pictures."""
        self.val_acc = MulticlassAccuracy(len(classes), average="micro")
        self.acc_clean = MulticlassAccuracy(len(classes), average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K) logits."""
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    def on_train_epoch_start(self) -> None:
        self.mixer.start_epoch()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        mixed = self.mixer(images.contiguous(memory_format=torch.channels_last), labels)
        if self.watch is not None:
            self.watch(mixed)
        region_logits = None
        if mixed.boxes is None:
            logits = self.network(mixed.images)
        else:
            logits, region_logits = self.network(mixed.images, mixed.boxes)
        losses = self.mixer.losses(logits, mixed, region_logits)
        self.mixer.remember(mixed, logits)
        # What the network predicts counts as much as the mixed label holds of it.
        predicted = logits.detach().argmax(1, keepdim=True)
        acc_mixed = 100 * mixed.targets.gather(1, predicted).mean()
        values = {f"loss_{name}": value.detach() for name, value in losses.items()}
        self.log_dict(
            values | {"acc_mixed": acc_mixed}, on_step=False, on_epoch=True, batch_size=len(logits)
        )
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Loader 0 is the evaluation split, loader 1 a probe of unmixed training images."""
        images, labels = batch
        logits = self(images).float()
        if dataloader_idx == 1:
            self.acc_clean.update(logits, labels)
            return
        self.val_acc.update(logits, labels)
        loss = nn.functional.cross_entropy(logits, labels)
        self.log("val_loss", loss, batch_size=len(labels), add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self.log("acc1", 100 * self.val_acc.compute(), prog_bar=True)
        self.val_acc.reset()
        if self.acc_clean.update_called:
            self.log("acc_clean", 100 * self.acc_clean.compute())
            self.acc_clean.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.hparams
        optimizer = SGD(
            self.parameters(),
            lr=settings["lr"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
            nesterov=settings["momentum"] > 0,
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup: int = max(1, round(settings["warmup"] * total))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress: float = (step - warmup) / max(1, total - warmup)
            return 0.5 * (1 + math.cos(math.pi * progress))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mixer"] = self.mixer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.mixer.load_state_dict(checkpoint["mixer"])
