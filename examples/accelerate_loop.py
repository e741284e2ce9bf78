"""RecursiveMix in an Accelerate loop, with the mixer in Accelerate's own checkpoints.

    accelerate launch examples/accelerate_loop.py --epochs 5 --checkpoint saved
    python examples/accelerate_loop.py --epochs 10 --resume saved

Pass the model, the optimizer and the loader to `prepare`. The mixer needs no `prepare`: it works on the
device of its batch. `register_for_checkpointing` takes it, as it has `state_dict` and `load_state_dict`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from digits import NUM_CLASSES, accuracy, load_digits_tensors, small_network
from recursivemix import RecursiveMix, RegionModel


class Progress:
    """How many epochs are done; Accelerate saves it as it saves the mixer."""

    def __init__(self) -> None:
        self.epochs = 0

    def state_dict(self) -> dict[str, int]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epochs = state["epochs"]


def main(epochs: int = 10, checkpoint: Path | None = None, resume: Path | None = None) -> float:
    """Train to `epochs` in all, save if a folder is given, and return the test accuracy."""
    torch.manual_seed(0)
    accelerator = Accelerator()
    train, test = load_digits_tensors()
    mixer = RecursiveMix(num_classes=NUM_CLASSES)
    model = RegionModel(small_network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(train, batch_size=32, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    progress = Progress()
    # Accelerate saves the objects of the main process alone. With several processes, each of which has its
    # own history, save mixer.state_dict() to one file per process instead.
    accelerator.register_for_checkpointing(mixer, progress)
    if resume is not None:
        accelerator.load_state(str(resume))

    while progress.epochs < epochs:
        model.train()
        mixer.start_epoch()
        for images, labels in loader:
            batch = mixer(images, labels)
            logits, region_logits = model(batch.images, batch.boxes)
            mixer.remember(batch, logits)
            optimizer.zero_grad()
            accelerator.backward(mixer.loss(logits, batch, region_logits))
            optimizer.step()
        progress.epochs += 1

    if checkpoint is not None:
        accelerator.save_state(str(checkpoint))
    return accuracy(accelerator.unwrap_model(model), test)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path, help="folder to save to")
    parser.add_argument("--resume", type=Path, help="folder to resume from")
    print(f"test accuracy {main(**vars(parser.parse_args())):.3f}")
