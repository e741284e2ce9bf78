"""RecursiveMix in a LightningModule, saved and resumed with Lightning's own checkpoints.

    python examples/lightning_module.py --epochs 5 --checkpoint digits.ckpt
    python examples/lightning_module.py --epochs 10 --resume digits.ckpt

`training_step` mixes, so that it happens on the device and never in validation or test.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from digits import NUM_CLASSES, load_digits_tensors, small_network
from recursivemix import RecursiveMix, RegionModel


class DigitsModule(L.LightningModule):
    """A classifier that is trained with RecursiveMix."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = RecursiveMix(num_classes=NUM_CLASSES)
        self.model = RegionModel(small_network())

    def on_train_epoch_start(self) -> None:
        self.mixer.start_epoch()

    def training_step(self, samples: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        batch = self.mixer(*samples)
        logits, region_logits = self.model(batch.images, batch.boxes)
        self.mixer.remember(batch, logits)
        return self.mixer.loss(logits, batch, region_logits)

    def test_step(self, samples: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = samples
        correct = self.model(images).argmax(1) == labels
        self.log("test_accuracy", correct.float().mean(), batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)

    # The mixer is no nn.Module, so its state is saved beside the weights. Lightning saves that of the first
    # process; with several devices, the others resume from it, without a history.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mixer"] = self.mixer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.mixer.load_state_dict(checkpoint["mixer"])


def main(epochs: int = 10, checkpoint: Path | None = None, resume: Path | None = None) -> float:
    """Train to `epochs` in all, save if a path is given, and return the test accuracy."""
    L.seed_everything(0, verbose=False)
    train, test = load_digits_tensors()
    module = DigitsModule()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, batch_size=32, shuffle=True), ckpt_path=resume)
    if checkpoint is not None:
        trainer.save_checkpoint(checkpoint)
    (metrics,) = trainer.test(module, DataLoader(test, batch_size=256), verbose=False)
    return metrics["test_accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path, help="file to save to")
    parser.add_argument("--resume", type=Path, help="file to resume from")
    print(f"test accuracy {main(**vars(parser.parse_args())):.3f}")
