"""RecursiveMix in a plain PyTorch loop: what it adds, and what to save.

    python examples/plain_loop.py --epochs 10 --checkpoint digits.pt

Four calls are new: `mixer(...)` mixes a batch, `mixer.loss` takes the place of the criterion,
`mixer.remember` makes this step the history of the next, `mixer.start_epoch` drops the history.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from digits import NUM_CLASSES, accuracy, load_digits_tensors, small_network
from recursivemix import RecursiveMix, RegionModel


def main(epochs: int = 10, checkpoint: Path | None = None) -> float:
    """Train, save if a path is given, and return the test accuracy."""
    torch.manual_seed(0)
    train, test = load_digits_tensors()
    loader = DataLoader(train, batch_size=32, shuffle=True)

    mixer = RecursiveMix(num_classes=NUM_CLASSES)
    model = RegionModel(small_network())
    # The region head is trained too, so the optimizer is given the whole model, not the backbone.
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    for epoch in range(epochs):
        model.train()
        mixer.start_epoch()
        for images, labels in loader:
            batch = mixer(images, labels)
            logits, region_logits = model(batch.images, batch.boxes)
            loss = mixer.loss(logits, batch, region_logits)
            mixer.remember(batch, logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")

    if checkpoint is not None:
        state = {
            # All that inference needs, with the backbone's own keys.
            "backbone": model.backbone.state_dict(),
            # What a resumed training needs besides.
            "region_head": model.region_head.state_dict(),
            "optimizer": optimizer.state_dict(),
            "mixer": mixer.state_dict(),
        }
        torch.save(state, checkpoint)
    return accuracy(model, test)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path, help="file to save to")
    print(f"test accuracy {main(**vars(parser.parse_args())):.3f}")
