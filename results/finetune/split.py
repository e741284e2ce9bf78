"""Split the classes of CIFAR-100: 80 to train a network with, 20 to fine-tune it on.

    python results/finetune/split.py CIFAR100 OUT

Write OUT/base and OUT/new as links, each with the folders train and test; the 20 classes are drawn with a
fixed seed.
"""

import sys
from pathlib import Path

import torch

source, out = Path(sys.argv[1]), Path(sys.argv[2])
classes = sorted(folder.name for folder in (source / "train").iterdir())
order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(20)).tolist()
new = {classes[i] for i in order[:20]}
for split in ("train", "test"):
    for name in classes:
        folder = out / ("new" if name in new else "base") / split / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to((source / split / name).absolute(), target_is_directory=True)
