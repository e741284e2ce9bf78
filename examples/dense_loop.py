"""RecursiveMix for semantic segmentation in a plain PyTorch loop.

    python examples/dense_loop.py --epochs 10

Label maps are pasted with their images, so the loss stays the usual one. For detection, give the mixer a
list of images and a list of `DenseTarget(boxes, labels)`.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from digits import NUM_CLASSES, load_digits_tensors, small_network
from recursivemix import DenseRecursiveMix

GROUND = NUM_CLASSES


def with_label_maps(digits: TensorDataset) -> TensorDataset:
    """Turn labels (N,) into label maps (N, 32, 32): the class of the digit on its ink, else `GROUND`."""
    images, labels = digits.tensors
    return TensorDataset(images, torch.where(images[:, 0] > 0.4, labels[:, None, None], GROUND))


def main(epochs: int = 10) -> float:
    """Train, and return the share of the digits' pixels in the test set whose class is right."""
    torch.manual_seed(0)
    train, test = (with_label_maps(digits) for digits in load_digits_tensors())
    loader = DataLoader(train, batch_size=32, shuffle=True)
    mixer = DenseRecursiveMix(max_area=0.25)
    features = small_network()[:-3]  # (B, 128, 4, 4), without pooling and classifier
    model = nn.Sequential(features, nn.ConvTranspose2d(128, NUM_CLASSES + 1, 8, stride=8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for epoch in range(epochs):
        model.train()
        mixer.start_epoch()
        for images, label_maps in loader:
            batch = mixer(images, label_maps)
            mixer.remember(batch)
            loss = F.cross_entropy(model(batch.images), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")
    images, label_maps = test.tensors
    with torch.no_grad():
        correct = model.eval()(images).argmax(1) == label_maps
    return correct[label_maps != GROUND].float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    print(f"test accuracy {main(**vars(parser.parse_args())):.3f}")
