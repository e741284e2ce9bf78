"""What is wrong with a folder of images, found before any training: every file is decoded once.

It reads the layouts of `image_folder`, and also those that `image_folder` refuses. Two images are the same
if their RGB pixels are: copies in another lossless format or with other metadata are found, re-compressed
or resized ones are not.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from PIL import ExifTags, Image
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torchvision.datasets.folder import IMG_EXTENSIONS

from recursivemix.data.formats.folder import as_rgb, reason

SPLITS = ("train", "val", "test")
SMALL = 32
"""Pixels; below this many on the short side an image is small."""
ELONGATED = 3
"""Long side over short side; above this an image is elongated."""
IMBALANCE = 10
"""Images of the largest class over those of the smallest; above this a split is imbalanced."""
SHOWN = 5
"""Files in a printed list, of all that the JSON holds."""

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Duplicate:
    """Files of the same pixels; the three tuples run in parallel."""

    files: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Sides:
    """Pixels."""

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `examine` found. Paths are relative to ``root``; counts are of images."""

    root: str
    counts: dict[str, dict[str, int]]
    """Split, class, image files; the split of a folder without any is called "all"."""
    imbalance: dict[str, float]
    """Split, images of its largest class over those of its smallest that has any."""
    missing_classes: dict[str, tuple[str, ...]]
    """Split, classes without a folder there that another split has."""
    empty_classes: tuple[str, ...]
    """Class folders without an image file."""
    unread_folders: tuple[str, ...]
    """Beside the splits: nobody reads them."""
    stray_images: tuple[str, ...]
    """Image files in no class folder."""
    not_images: tuple[str, ...]
    """Files in class folders whose ending is no image's."""
    unreadable: tuple[tuple[str, str], ...]
    """File, and what is wrong with it."""
    duplicates: tuple[Duplicate, ...]
    leaks: dict[str, int]
    """"val in train": images of the one that the other has too."""
    width: Sides | None
    height: Sides | None
    small: int
    elongated: int
    modes: dict[str, int]
    """Pillow's mode, images."""
    several_frames: int
    exif_rotated: int
    transparent: int

    @property
    def images(self) -> int:
        """Image files in class folders, readable or not."""
        return sum(sum(classes.values()) for classes in self.counts.values())

    @property
    def leaking(self) -> tuple[Duplicate, ...]:
        """Duplicates in more than one split."""
        return tuple(d for d in self.duplicates if len(set(d.splits)) > 1)

    @property
    def contradicting(self) -> tuple[Duplicate, ...]:
        """Duplicates of more than one class."""
        return tuple(d for d in self.duplicates if len(set(d.classes)) > 1)

    @property
    def problems(self) -> tuple[str, ...]:
        """What to mend, in sentences, the most severe first."""
        return tuple(_problems(self))

    def as_dict(self) -> dict[str, Any]:
        """Everything, the problems too, in what JSON knows."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**plain, "images": self.images, "problems": list(self.problems)}


@dataclass(frozen=True)
class ImageFile:
    """A file with an image's ending, and where it belongs."""

    path: Path
    split: str
    label: str


@dataclass(frozen=True)
class Tree:
    """What the names alone tell of a folder."""

    places: dict[str, Path]
    """Of the splits."""
    counts: dict[str, dict[str, int]]
    files: list[ImageFile]
    unread_folders: list[Path]
    stray_images: list[Path]
    not_images: list[Path]


@dataclass(frozen=True)
class Look:
    """What one readable image is like."""

    size: tuple[int, int]
    """Width, height."""
    mode: str
    several_frames: bool
    rotated: bool
    transparent: bool
    digest: bytes
    """Of size and RGB pixels."""


def examine(root: Path, *, workers: int = 2, progress: bool = True) -> Diagnosis:
    """Look at every file of a folder of images.

    Args:
        root: a folder as `image_folder` takes it, or nearly.
        workers: threads that decode; Pillow does so beside them.
        progress: show how far it is, on standard error.

    Raises:
        ValueError: no such folder, or less than one worker.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root} to examine: name one that holds train/CLASS or CLASS")
    tree = _walk(root)
    looks = _decoded(look, [file.path for file in tree.files], workers, progress)
    pairs = list(zip(tree.files, looks, strict=True))
    good = [(file, seen) for file, seen in pairs if isinstance(seen, Look)]
    duplicates, leaks = _same(good, root)
    every = {name for classes in tree.counts.values() for name in classes}
    return Diagnosis(
        root=str(root),
        counts=tree.counts,
        imbalance={split: _imbalance(classes) for split, classes in tree.counts.items()},
        missing_classes={
            split: tuple(sorted(every - set(classes)))
            for split, classes in tree.counts.items()
            if every - set(classes)
        },
        empty_classes=tuple(
            _relative(tree.places[split] / name, root)
            for split, classes in tree.counts.items()
            for name, count in classes.items()
            if not count
        ),
        unread_folders=tuple(folder.name for folder in tree.unread_folders),
        stray_images=tuple(_relative(path, root) for path in tree.stray_images),
        not_images=tuple(_relative(path, root) for path in tree.not_images),
        unreadable=tuple((_relative(file.path, root), why) for file, why in pairs if isinstance(why, str)),
        duplicates=duplicates,
        leaks=leaks,
        width=_sides([seen.size[0] for _, seen in good]),
        height=_sides([seen.size[1] for _, seen in good]),
        small=sum(min(seen.size) < SMALL for _, seen in good),
        elongated=sum(max(seen.size) > ELONGATED * min(seen.size) for _, seen in good),
        modes=dict(Counter(seen.mode for _, seen in good).most_common()),
        several_frames=sum(seen.several_frames for _, seen in good),
        exif_rotated=sum(seen.rotated for _, seen in good),
        transparent=sum(seen.transparent for _, seen in good),
    )


def _walk(root: Path) -> Tree:
    present = {name: root / name for name in SPLITS if (root / name).is_dir()}
    tree = Tree(
        places=present or {"all": root},
        counts={},
        files=[],
        unread_folders=[f for f in _folders(root) if f.name not in present] if present else [],
        stray_images=[p for p in sorted(root.iterdir()) if _is_image(p)],
        not_images=[],
    )
    for split, place in tree.places.items():
        if present:
            tree.stray_images.extend(p for p in sorted(place.iterdir()) if _is_image(p))
        counts = tree.counts[split] = {folder.name: 0 for folder in _folders(place)}
        for folder in _folders(place):
            for path in sorted(p for p in folder.rglob("*") if not p.is_dir()):
                if _is_image(path):
                    counts[folder.name] += 1
                    tree.files.append(ImageFile(path, split, folder.name))
                elif not path.name.startswith("."):
                    tree.not_images.append(path)
    return tree


def unreadable(files: list[tuple[Path, int]], workers: int, progress: bool) -> list[tuple[Path, str]]:
    """The files that do not decode, with the reason, in the files' order.

    Args:
        files: path and class index of every image.
        workers: threads that decode.
        progress: show how far it is, on standard error.
    """
    paths = [path for path, _ in files]
    seen = _decoded(_decode, paths, workers, progress)
    return [(path, wrong) for path, wrong in zip(paths, seen, strict=True) if isinstance(wrong, str)]


def look(path: Path) -> Look:
    """Decode one image; raises whatever Pillow raises."""
    with Image.open(path) as image:
        # The preview inside a camera's JPEG makes it two frames, of which the first is the picture.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        mode, size = image.mode, image.size
        pixels = as_rgb(image).contiguous().numpy()
        transparent = False
        if image.has_transparency_data:
            opaque = image.convert("RGBA").getchannel("A").histogram()[255]
            transparent = opaque < size[0] * size[1]
        rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    digest = blake2b(repr(size).encode(), digest_size=16)
    digest.update(pixels.data)
    return Look(size, mode, frames > 1, rotated, transparent, digest.digest())


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        as_rgb(image)


def _decoded(
    work: Callable[[Path], Seen], paths: list[Path], workers: int, progress: bool
) -> list[Seen | str]:
    """What ``work`` gives for every image, or in words why it fails; in the order of the paths."""
    if workers < 1:
        raise ValueError(f"workers is a number of threads and must be at least 1, got {workers}")

    def guarded(path: Path) -> Seen | str:
        try:
            return work(path)
        except (
            Exception
        ) as error:  # a broken file may fail anywhere in Pillow, and the next one is to follow
            return "empty file" if path.exists() and not path.stat().st_size else reason(error)

    blocks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    done: list[Seen | str] = []
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress)
    with bar, warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Pillow warns of odd metadata and of palettes, which is for another day. Threads share the filter.
        warnings.simplefilter("ignore")
        task = bar.add_task("decoding", total=len(paths))
        try:
            for block in pool.map(lambda block: [guarded(path) for path in block], blocks):
                done += block
                bar.update(task, completed=len(done))
        except BaseException:  # Ctrl-C should not wait for all files
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def _same(good: list[tuple[ImageFile, Look]], root: Path) -> tuple[tuple[Duplicate, ...], dict[str, int]]:
    """Files of the same pixels, and how many images of one split another has too."""
    groups: dict[bytes, list[ImageFile]] = defaultdict(list)
    for file, seen in good:
        groups[seen.digest].append(file)
    several = [group for group in groups.values() if len(group) > 1]
    leaks: Counter[str] = Counter()
    for group in several:
        inside = Counter(file.split for file in group)
        for first, second in combinations([name for name in SPLITS if name in inside], 2):
            leaks[f"{second} in {first}"] += inside[second]
    duplicates = tuple(
        Duplicate(
            files=tuple(_relative(file.path, root) for file in group),
            splits=tuple(file.split for file in group),
            classes=tuple(file.label for file in group),
        )
        for group in several
    )
    return duplicates, dict(leaks)


def _folders(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMG_EXTENSIONS and not path.is_dir()


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _imbalance(classes: dict[str, int]) -> float:
    some = [count for count in classes.values() if count]
    return round(max(some) / min(some), 2) if some else 1.0


def _sides(lengths: list[int]) -> Sides | None:
    return Sides(min(lengths), median(lengths), max(lengths)) if lengths else None


def _problems(found: Diagnosis) -> Iterator[str]:
    yield from _refusals(found)
    if found.unreadable:
        path, why = found.unreadable[0]
        yield (
            f"{_images(len(found.unreadable))} that cannot be read, where training would stop: mend or "
            f"remove them, or train with --skip-bad; such as {path} ({why})"
        )
    for pair, count in found.leaks.items():
        second, first = pair.split(" in ")
        total = sum(found.counts[second].values())
        yield (
            f"{count:,} of {total:,} {second} images ({100 * count / total:.2f} %) also in {first}, so "
            f"that accuracy is not of unseen images alone: remove them from {first}"
        )
    if found.contradicting:
        yield (
            f"{_counted(len(found.contradicting), 'set')} of identical images in different classes: "
            f"keep each in the right one; such as {_listed(found.contradicting[0].files)}"
        )
    within = [d for d in found.duplicates if len(set(d.splits)) < len(d.splits)]
    if within:
        surplus = sum(len(d.splits) - len(set(d.splits)) for d in within)
        yield (
            f"{_images(surplus)} too many, which repeat another one of the same split: remove all but one "
            f"of each; such as {_listed(within[0].files)}"
        )
    for split, ratio in found.imbalance.items():
        if ratio > IMBALANCE:
            yield (
                f"{split} is imbalanced: {ratio:.3g} times as many images in its largest class as in its "
                "smallest; look at the accuracy class by class"
            )
    yield from _oddities(found)


def _refusals(found: Diagnosis) -> Iterator[str]:
    """What `image_folder` raises an error for."""
    if not found.images:
        yield f"no image file in any class folder (that is {', '.join(IMG_EXTENSIONS)})"
    if "train" not in found.counts and "all" not in found.counts:
        yield f"no train folder beside {_listed(found.counts)}"
    for split, classes in found.counts.items():
        if len(classes) < 2:
            what = f"only {_listed(classes)}" if classes else "none"
            yield f"at least two class folders are needed, {split} has {what}"
    for split, names in found.missing_classes.items():
        yield (
            f"no folder in {split} for {_listed(names)}: every split needs every class, under the same name"
        )
    if found.empty_classes:
        yield (
            f"{_counted(len(found.empty_classes), 'class folder')} without any image: "
            f"{_listed(found.empty_classes)}; fill them, or remove the class from every split"
        )


def _oddities(found: Diagnosis) -> Iterator[str]:
    """What training gets over, though perhaps not as one thinks."""
    if found.unread_folders:
        yield (
            f"nobody reads {_listed(found.unread_folders)}: beside train, the names are val and test; "
            "rename what is meant to be one of them"
        )
    if found.stray_images:
        yield (
            f"{_images(len(found.stray_images))} in no class folder, which nobody reads: "
            f"{_listed(found.stray_images)}"
        )
    if found.exif_rotated:
        yield (
            f"{_images(found.exif_rotated)} to be turned by their EXIF tag, which training ignores: "
            "store the pixels upright"
        )
    if found.transparent:
        yield (
            f"{_images(found.transparent)} with transparent pixels, whose hidden colours training sees: "
            "put them on a background"
        )
    if "CMYK" in found.modes:
        yield (
            f"{_images(found.modes['CMYK'])} in CMYK, read without a colour profile: convert to RGB "
            "where colour matters"
        )
    if found.several_frames:
        yield f"{_images(found.several_frames)} of several frames, of which only the first is read"
    if found.elongated:
        yield (
            f"{_images(found.elongated)} with one side more than {ELONGATED} times the other: little of it "
            "is left in a square crop"
        )
    if found.small:
        yield f"{_images(found.small)} with a side below {SMALL} pixels"
    if found.not_images:
        kinds = Counter(Path(name).suffix.lower() or "no ending" for name in found.not_images)
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(SHOWN))
        yield (
            f"nobody reads files in class folders whose ending is no image's: {told}; such as "
            f"{_listed(found.not_images)}"
        )


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Tables on standard output: what is there, then files to look at, then all problems."""
    console = Console(highlight=False)
    console.print(_splits_table(diagnosis))
    console.print(_images_table(diagnosis))
    for title, rows in _files_to_see(diagnosis).items():
        if rows:
            more = f", {SHOWN} of {len(rows):,}" if len(rows) > SHOWN else ""
            console.print(Text(f"{title}{more}:", style="bold"))
            for row in rows[:SHOWN]:
                console.print(Text(f"  {row}"), soft_wrap=True)  # a broken path can't be copied
    problems = diagnosis.problems
    if not problems:
        console.print(Text("No problems.", style="bold green"))
        return
    console.print(Text(f"Problems: {len(problems)}, the most severe first", style="bold"))
    table = Table.grid(padding=(0, 1))
    for number, problem in enumerate(problems, 1):
        table.add_row(f"{number}.", Text(problem))
    console.print(table)


def _splits_table(found: Diagnosis) -> Table:
    table = Table(title=Text(found.root, overflow="fold"))
    table.add_column("split")
    for heading in ("images", "classes", "fewest in a class", "most in a class", "ratio"):
        table.add_column(heading, justify="right")
    for split, classes in found.counts.items():
        ends = sorted((count, name) for name, count in classes.items())
        told = ["", ""]
        if ends and ends[0][0] == ends[-1][0]:
            told = [f"{ends[0][0]:,}"] * 2
        elif ends:
            told = [f"{count:,} ({name})" for count, name in (ends[0], ends[-1])]
        cells = [split, f"{sum(classes.values()):,}", f"{len(classes):,}", *told]
        table.add_row(*(Text(cell) for cell in cells), f"{found.imbalance[split]:.3g}")
    return table


def _images_table(found: Diagnosis) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, sides in (("width", found.width), ("height", found.height)):
        if sides is not None:
            same = sides.min == sides.max
            told = f"{sides.min}" if same else f"{sides.min} to {sides.max}, median {sides.median:g}"
            table.add_row(name, f"{told} pixels")
    modes = ", ".join(f"{mode} {count:,}" for mode, count in found.modes.items())
    table.add_row("colour modes", Text(modes or "none"))
    table.add_row("unreadable", f"{len(found.unreadable):,}")
    told = f"{len(found.duplicates):,}"
    if found.duplicates:
        told += f", {len(found.leaking):,} across splits, {len(found.contradicting):,} across classes"
    table.add_row("images that come more than once", told)
    return table


def _files_to_see(found: Diagnosis) -> dict[str, list[str]]:
    """The findings that are cured file by file."""
    return {
        "Unreadable": [f"{path}: {why}" for path, why in found.unreadable],
        "Identical images across splits": [" = ".join(d.files) for d in found.leaking],
        "Identical images across classes": [" = ".join(d.files) for d in found.contradicting],
    }


def _images(count: int) -> str:
    return _counted(count, "image")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - SHOWN:,} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
