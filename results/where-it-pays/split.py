"""Hold out validation images of CIFAR-100's training set, so that exploration never reads the test set.

    python results/where-it-pays/split.py CIFAR100 OUT

Write OUT/train and OUT/val as links; the validation set is 100 images per class, drawn with a fixed seed.
"""

import sys
from pathlib import Path

import torch

source, out = Path(sys.argv[1]), Path(sys.argv[2])
generator = torch.Generator().manual_seed(100)
for folder in sorted((source / "train").iterdir()):
    files = sorted(folder.iterdir())
    held_out = set(torch.randperm(len(files), generator=generator)[:100].tolist())
    for split in ("train", "val"):
        (out / split / folder.name).mkdir(parents=True)
    for i, file in enumerate(files):
        split = "val" if i in held_out else "train"
        (out / split / folder.name / file.name).symlink_to(file.absolute())
