"""Results of `examine`: statistics of a folder of images, its problems in sentences, and printed tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torchvision.datasets.folder import IMG_EXTENSIONS

from .printable import counted, first_few

SMALL = 32
"""An image is small if its shorter side has fewer pixels."""
ELONGATED = 3
"""An image is elongated if its longer side is more than this times the shorter one."""
IMBALANCE = 10
"""A split is imbalanced if its largest class has more than this times the images of its smallest."""
SHOWN = 5
"""Number of files in a printed list; the JSON has all of them."""


@dataclass(frozen=True)
class Duplicate:
    """Files with the same pixels; the three tuples are parallel."""

    files: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Sides:
    """Statistics of widths or heights, in pixels."""

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class Diagnosis:
    """Statistics and defects of a folder of images; paths are relative to ``root``."""

    root: str
    counts: dict[str, dict[str, int]]
    """Image files by split and class; the split of a folder without splits is "all"."""
    imbalance: dict[str, float]
    """By split, images of the largest class over those of the smallest class that has any."""
    missing_classes: dict[str, tuple[str, ...]]
    """By split, classes of other splits that have no folder in it."""
    empty_classes: tuple[str, ...]
    """Class folders without an image file."""
    unread_folders: tuple[str, ...]
    """Folders beside the splits, which are ignored."""
    stray_images: tuple[str, ...]
    """Image files outside the class folders."""
    not_images: tuple[str, ...]
    """Files in class folders that do not have the suffix of an image."""
    unreadable: tuple[tuple[str, str], ...]
    """Files that cannot be decoded, each with the reason."""
    duplicates: tuple[Duplicate, ...]
    leaks: dict[str, int]
    """Images that two splits share: "val in train" counts those of val."""
    width: Sides | None
    height: Sides | None
    small: int
    elongated: int
    modes: dict[str, int]
    """Images by Pillow mode."""
    several_frames: int
    exif_rotated: int
    transparent: int

    @property
    def images(self) -> int:
        """Number of image files in class folders, readable or not."""
        return sum(sum(classes.values()) for classes in self.counts.values())

    @property
    def leaking(self) -> tuple[Duplicate, ...]:
        """Duplicates in more than one split."""
        return tuple(d for d in self.duplicates if len(set(d.splits)) > 1)

    @property
    def contradicting(self) -> tuple[Duplicate, ...]:
        """Duplicates in more than one class."""
        return tuple(d for d in self.duplicates if len(set(d.classes)) > 1)

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems and how to fix them, the most severe first."""
        return (*_fatal_problems(self), *_leaks_and_duplicates(self), *_notices(self))

    def as_dict(self) -> dict[str, Any]:
        """Return all fields and the problems as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**plain, "images": self.images, "problems": list(self.problems)}


def _fatal_problems(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield the problems that stop training, first those that `image_folder` refuses."""
    if not diagnosis.images:
        yield f"no image file in any class folder (that is {', '.join(IMG_EXTENSIONS)})"
    if "train" not in diagnosis.counts and "all" not in diagnosis.counts:
        yield f"no train folder beside {first_few(diagnosis.counts)}"
    for split, classes in diagnosis.counts.items():
        if len(classes) < 2:
            present = f"only {first_few(classes)}" if classes else "none"
            yield f"at least two class folders are needed, {split} has {present}"
    for split, names in diagnosis.missing_classes.items():
        yield f"no folder in {split} for {first_few(names)}: every split needs the same class folders"
    if diagnosis.empty_classes:
        yield (
            f"{counted(len(diagnosis.empty_classes), 'class folder')} without any image: "
            f"{first_few(diagnosis.empty_classes)}; fill them, or remove the class from every split"
        )
    if diagnosis.unreadable:
        path, reason = diagnosis.unreadable[0]
        yield (
            f"{counted(len(diagnosis.unreadable), 'image')} cannot be read, which stops training: fix or "
            f"remove them, or train with --skip-bad; for example {path} ({reason})"
        )


def _leaks_and_duplicates(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield the problems that distort training or its evaluation."""
    for pair, count in diagnosis.leaks.items():
        second, first = pair.split(" in ")
        total = sum(diagnosis.counts[second].values())
        yield (
            f"{count:,} of {total:,} {second} images ({100 * count / total:.2f} %) also in {first}, which "
            f"inflates the accuracy: remove them from {first}"
        )
    if diagnosis.contradicting:
        yield (
            f"{counted(len(diagnosis.contradicting), 'set')} of identical images in different classes: "
            f"keep each in the right one; for example {first_few(diagnosis.contradicting[0].files)}"
        )
    within = [d for d in diagnosis.duplicates if len(set(d.splits)) < len(d.splits)]
    if within:
        surplus = sum(len(d.splits) - len(set(d.splits)) for d in within)
        yield (
            f"{counted(surplus, 'image')} repeated within a split: keep one of each; for example "
            f"{first_few(within[0].files)}"
        )
    for split, ratio in diagnosis.imbalance.items():
        if ratio > IMBALANCE:
            yield (
                f"{split} is imbalanced: its largest class has {ratio:.3g} times as many images as its "
                f"smallest; check the accuracy of each class"
            )


def _notices(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield issues that do not stop training but may surprise."""
    if diagnosis.unread_folders:
        yield f"ignored: {first_few(diagnosis.unread_folders)}; splits are named train, val and test"
    stray = diagnosis.stray_images
    for count, words in (
        (len(stray), f"outside the class folders, ignored: {first_few(stray)}"),
        (diagnosis.exif_rotated, "with an EXIF rotation, which training ignores: store the pixels upright"),
        (
            diagnosis.transparent,
            "with transparent pixels, whose hidden colours are trained on: put them on a background",
        ),
        (
            diagnosis.modes.get("CMYK", 0),
            "in CMYK, converted without a colour profile: convert to RGB yourself if colours matter",
        ),
        (diagnosis.several_frames, "with several frames: only the first is read"),
        (
            diagnosis.elongated,
            f"with one side more than {ELONGATED} times the other: square crops show little of them",
        ),
        (diagnosis.small, f"with a side below {SMALL} pixels"),
    ):
        if count:
            yield f"{counted(count, 'image')} {words}"
    if diagnosis.not_images:
        suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in diagnosis.not_images)
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common(SHOWN))
        yield (
            f"files in class folders that are not images, ignored: {counts}; for example "
            f"{first_few(diagnosis.not_images)}"
        )


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print tables, the files to look at, and the problems."""
    console = Console(highlight=False)
    console.print(_splits_table(diagnosis))
    console.print(_images_table(diagnosis))
    for title, rows in _files_to_check(diagnosis).items():
        if rows:
            more = f", {SHOWN} of {len(rows):,}" if len(rows) > SHOWN else ""
            console.print(Text(f"{title}{more}:", style="bold"))
            for row in rows[:SHOWN]:
                console.print(Text(f"  {row}"), soft_wrap=True)  # a wrapped path cannot be copied
    problems = diagnosis.problems
    if not problems:
        console.print(Text("No problems.", style="bold green"))
        return
    console.print(Text(f"Problems: {len(problems)}, the most severe first", style="bold"))
    table = Table.grid(padding=(0, 1))
    for number, problem in enumerate(problems, 1):
        table.add_row(f"{number}.", Text(problem))
    console.print(table)


def _splits_table(diagnosis: Diagnosis) -> Table:
    table = Table(title=Text(diagnosis.root, overflow="fold"))
    table.add_column("split")
    for heading in ("images", "classes", "fewest in a class", "most in a class", "ratio"):
        table.add_column(heading, justify="right")
    for split, classes in diagnosis.counts.items():
        ordered = sorted((count, name) for name, count in classes.items())
        extremes = ["", ""]
        if ordered and ordered[0][0] == ordered[-1][0]:
            extremes = [f"{ordered[0][0]:,}"] * 2
        elif ordered:
            extremes = [f"{count:,} ({name})" for count, name in (ordered[0], ordered[-1])]
        cells = [split, f"{sum(classes.values()):,}", f"{len(classes):,}", *extremes]
        table.add_row(*(Text(cell) for cell in cells), f"{diagnosis.imbalance[split]:.3g}")
    return table


def _images_table(diagnosis: Diagnosis) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, sides in (("width", diagnosis.width), ("height", diagnosis.height)):
        if sides is not None:
            spread = f"{sides.min} to {sides.max}, median {sides.median:g}"
            table.add_row(name, f"{sides.min if sides.min == sides.max else spread} pixels")
    modes = ", ".join(f"{mode} {count:,}" for mode, count in diagnosis.modes.items())
    table.add_row("colour modes", Text(modes or "none"))
    table.add_row("unreadable", f"{len(diagnosis.unreadable):,}")
    duplicates = f"{len(diagnosis.duplicates):,}"
    if diagnosis.duplicates:
        duplicates += (
            f", {len(diagnosis.leaking):,} across splits, {len(diagnosis.contradicting):,} across classes"
        )
    table.add_row("duplicated images", duplicates)
    return table


def _files_to_check(diagnosis: Diagnosis) -> dict[str, list[str]]:
    """Return the findings that are fixed file by file, by title."""
    return {
        "Unreadable": [f"{path}: {reason}" for path, reason in diagnosis.unreadable],
        "Identical images across splits": [" = ".join(d.files) for d in diagnosis.leaking],
        "Identical images across classes": [" = ".join(d.files) for d in diagnosis.contradicting],
    }
