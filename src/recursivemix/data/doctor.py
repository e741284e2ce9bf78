"""Examine a folder of images before training: decode every file once and look for defects.

It reads the layouts of `image_folder`, and also those that `image_folder` refuses. Images count as
duplicates if their RGB pixels are equal: copies in another lossless format or with other metadata are
detected, recompressed or resized ones are not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from statistics import median

from PIL import ExifTags

from .decode import as_rgb, map_decoding, open_image_file
from .diagnosis import ELONGATED, SMALL, Diagnosis, Duplicate, Sides
from .formats.folder import check_not_annotated, class_folders, files_below, is_image_file, split_folders


@dataclass(frozen=True)
class ImageFile:
    """A file with the suffix of an image, and its split and class."""

    path: Path
    split: str
    label: str


@dataclass(frozen=True)
class Properties:
    """Properties of a readable image."""

    size: tuple[int, int]
    """Width, height."""
    mode: str
    several_frames: bool
    rotated: bool
    transparent: bool
    digest: bytes
    """Hash of the size and the RGB pixels."""


def examine(root: Path, *, workers: int = 2, progress: bool = True) -> Diagnosis:
    """Examine every file of a folder of images.

    Args:
        root: a folder as for `image_folder`, or close to it.
        workers: number of threads that decode.
        progress: show a progress bar on standard error.

    Raises:
        ValueError: the folder is missing or holds annotated images, or ``workers`` is below 1.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root} to examine: name one that holds train/CLASS or CLASS")
    check_not_annotated(root)
    splits = split_folders(root)
    folders = splits or {"all": root}
    counts, files, not_images = _list_files(folders)
    results = map_decoding(image_properties, [file.path for file in files], workers, progress)
    pairs = list(zip(files, results, strict=True))
    readable = [(file, result) for file, result in pairs if isinstance(result, Properties)]
    properties = [result for _, result in readable]
    duplicates, leaks = _duplicates(readable, root)
    every_class = {name for classes in counts.values() for name in classes}
    unread = [f.name for f in class_folders(root) if splits and f not in splits.values()]
    return Diagnosis(
        root=str(root),
        counts=counts,
        imbalance={split: _imbalance(classes) for split, classes in counts.items()},
        missing_classes={
            split: tuple(sorted(every_class - set(classes)))
            for split, classes in counts.items()
            if every_class - set(classes)
        },
        empty_classes=tuple(
            _relative(folders[split] / name, root)
            for split, classes in counts.items()
            for name, count in classes.items()
            if not count
        ),
        unread_folders=tuple(unread),
        stray_images=tuple(
            _relative(path, root)
            for folder in dict.fromkeys((root, *folders.values()))
            for path in sorted(folder.iterdir())
            if is_image_file(path) and not path.name.startswith(".") and not path.is_dir()
        ),
        not_images=tuple(_relative(path, root) for path in not_images),
        unreadable=tuple((_relative(file.path, root), why) for file, why in pairs if isinstance(why, str)),
        duplicates=duplicates,
        leaks=leaks,
        width=_sides([image.size[0] for image in properties]),
        height=_sides([image.size[1] for image in properties]),
        small=sum(min(image.size) < SMALL for image in properties),
        elongated=sum(max(image.size) > ELONGATED * min(image.size) for image in properties),
        modes=dict(Counter(image.mode for image in properties).most_common()),
        several_frames=sum(image.several_frames for image in properties),
        exif_rotated=sum(image.rotated for image in properties),
        transparent=sum(image.transparent for image in properties),
    )


def image_properties(path: Path) -> Properties:
    """Decode an image file and return its properties; raises whatever Pillow raises."""
    with open_image_file(path) as image:
        # The preview in a camera's JPEG counts as a second frame; the first is the picture.
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
    return Properties(size, mode, frames > 1, rotated, transparent, digest.digest())


def _list_files(
    folders: Mapping[str, Path],
) -> tuple[dict[str, dict[str, int]], list[ImageFile], list[Path]]:
    """List the folder of each split: images by split and class, the image files, and other files."""
    counts: dict[str, dict[str, int]] = {}
    files: list[ImageFile] = []
    not_images: list[Path] = []
    for split, folder in folders.items():
        counts[split] = {}
        for child in class_folders(folder):
            inside = files_below(child)
            images = [ImageFile(path, split, child.name) for path in inside if is_image_file(path)]
            counts[split][child.name] = len(images)
            files += images
            not_images += [path for path in inside if not is_image_file(path)]
    return counts, files, not_images


def _duplicates(
    images: Sequence[tuple[ImageFile, Properties]], root: Path
) -> tuple[tuple[Duplicate, ...], dict[str, int]]:
    """Return the files with the same pixels, and the number of images that two splits share."""
    groups: dict[bytes, list[ImageFile]] = defaultdict(list)
    for file, properties in images:
        groups[properties.digest].append(file)
    repeated = [group for group in groups.values() if len(group) > 1]
    leaks: Counter[str] = Counter()
    for group in repeated:
        counts = Counter(file.split for file in group)
        for first, second in combinations(counts, 2):
            leaks[f"{second} in {first}"] += counts[second]
    duplicates = tuple(
        Duplicate(
            files=tuple(_relative(file.path, root) for file in group),
            splits=tuple(file.split for file in group),
            classes=tuple(file.label for file in group),
        )
        for group in repeated
    )
    return duplicates, dict(leaks)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _imbalance(classes: dict[str, int]) -> float:
    counts = [count for count in classes.values() if count]
    return round(max(counts) / min(counts), 2) if counts else 1.0


def _sides(lengths: list[int]) -> Sides | None:
    return Sides(min(lengths), median(lengths), max(lengths)) if lengths else None
