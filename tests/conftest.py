"""Folders of images made on the spot, and the real data where it is there."""

from __future__ import annotations

import os
from pathlib import Path

# Test processes run side by side; one thread each is faster than fighting over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from PIL import Image

FAST = ["--epochs", "2", "--batch-size", "12", "--workers", "0", "--device", "cpu", "--lr", "0.05"]
"""Options of a run of a few seconds on `image_root`."""
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Real data sets beside the checkout; tests that want them skip elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


def write_images(folder: Path, count: int, *, hue: int = 0, size: tuple[int, int] = (16, 16)) -> None:
    """PNG files whose one bright channel tells their class: a network learns them at once."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(hue)
    for i in range(count):
        pixels = torch.randint(0, 60, (*size[::-1], 3), generator=generator, dtype=torch.uint8)
        pixels[..., hue % 3] += 180
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """``train`` and ``val`` of three classes, 16 pixels a side."""
    root = tmp_path / "data"
    for hue, name in enumerate(("blue", "green", "red")):
        write_images(root / "train" / name, 12, hue=hue)
        write_images(root / "val" / name, 5, hue=hue)
    return root
