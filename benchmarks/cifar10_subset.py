"""Makes a small training set of CIFAR-10 from the archive of JPEG files, with the whole test set.

    python benchmarks/cifar10_subset.py --archive ../shared/data/cifar10.tar.xz --out /tmp/cifar10-5000

Takes the first images of every class by file name, so the set is always the same.
"""

from __future__ import annotations

import argparse
import tarfile
from collections import Counter
from pathlib import Path


def extract(archive: Path, out: Path, per_class: int) -> Counter[str]:
    """Write ``out/train/<class>`` and ``out/test/<class>``; returns the images of each split."""
    if out.exists():
        raise SystemExit(f"{out} already exists: name a new folder with --out")
    counts: Counter[str] = Counter()
    with tarfile.open(archive) as tar:
        members = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda m: m.name)
        taken: Counter[str] = Counter()
        wanted = []
        for member in members:
            _, split, name, _ = member.name.rsplit("/", 3)
            taken[f"{split}/{name}"] += 1
            if split == "test" or taken[f"{split}/{name}"] <= per_class:
                member.name = f"{split}/{name}/{Path(member.name).name}"
                wanted.append(member)
                counts[split] += 1
        tar.extractall(out, members=wanted, filter="data")
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=500)
    options = parser.parse_args()
    print(dict(extract(options.archive, options.out, options.per_class)))
