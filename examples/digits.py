"""scikit-learn's handwritten digits as tensors, the data of every example; nothing is downloaded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import TensorDataset

NUM_CLASSES = 10


def load_digits_tensors() -> tuple[TensorDataset, TensorDataset]:
    """Return the training and the test set, 1344 and 453 digits; the split is always the same.

    Each holds images (N, 3, 32, 32), float32 in [0, 1], and labels (N,), int64.
    """
    grey, labels = load_digits(return_X_y=True)  # (1797, 64) in 0..16, (1797,)
    images = torch.from_numpy(grey).float().view(-1, 1, 8, 8) / 16
    # Usual networks take three channels, and halve an image more often than 8 pixels allow.
    images = F.interpolate(images, size=32, mode="bilinear", align_corners=False).repeat(1, 3, 1, 1)
    targets = torch.from_numpy(labels).long()
    # 1344 divides into batches of 32 or 64: a last batch of three would disturb batch normalization.
    train, test = train_test_split(range(len(targets)), train_size=1344, stratify=labels, random_state=0)
    return TensorDataset(images[train], targets[train]), TensorDataset(images[test], targets[test])


def small_network() -> nn.Module:
    """A convolutional classifier that learns the digits in seconds on a CPU."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in [(3, 32), (32, 64), (64, 128)]:
        layers += [
            nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, NUM_CLASSES))


@torch.no_grad()
def accuracy(model: nn.Module, dataset: TensorDataset) -> float:
    """Share of the dataset that the model classifies correctly; leaves the model in eval mode."""
    images, labels = dataset.tensors
    device = next(model.parameters()).device
    predicted: Tensor = model.eval()(images.to(device)).argmax(1)
    return (predicted.cpu() == labels).float().mean().item()
