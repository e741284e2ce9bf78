"""Where the images of a run come from. Standard library only.

Annotations are evaluated here: jsonargparse would look up their names in the modules of other classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .names import AutoAugment, Crop, Source

MAX_PIXELS = 89_478_485
"""Pixels above which Pillow warns: 256 MiB as RGB."""
PILLOW_LIMIT = 2 * MAX_PIXELS
"""Pixels above which Pillow refuses an image."""


@dataclass(frozen=True)
class SourceSettings:
    """Data set.

    Args:
        data: Folder of images (default: small sample images that come with the installation).
        download: Allow downloads of data sets and of pretrained weights.
        skip_bad: Read every image and its annotation before training; leave out and list the broken ones.
    """

    data: Path | None = None
    download: bool = False
    skip_bad: bool = False


@dataclass(frozen=True)
class ColorSettings:
    """Mirroring and colours of training images.

    Args:
        flip: Mirror half of the training images (default: yes, except for digits).
        color_jitter: Largest relative change of brightness, contrast and saturation.
    """

    flip: bool | None = None
    color_jitter: float = 0.0


@dataclass(frozen=True)
class AugmentationSettings(ColorSettings):
    """Augmentation of training images, before they are mixed.

    Args:
        crop: pad (random shift over black borders), resized (random area and aspect ratio) or none
            (default: pad for small images, else resized).
        crop_scale: Range of the area of --crop resized, as a share of the image.
        crop_ratio: Range of the aspect ratio of --crop resized, width by height.
        vertical_flip: Turn half of the training images upside down.
        auto_augment: autoaugment (the ImageNet policy), randaugment, trivialaugment (wide), augmix,
            3-augment (grayscale, solarize or blur) or none.
        magnitude: Strength of --auto-augment randaugment, 0 to 30.
        operations: Operations that --auto-augment randaugment applies to each image.
        grayscale: Share of the training images that lose their colour.
        blur: Share of the training images that are blurred, by a Gaussian of 0.1 to 2 pixels.
        random_erasing: Share of the training images in which a rectangle is filled with noise.
        lighting: Standard deviation of the PCA lighting noise, such as 0.1.
    """

    crop: Crop | None = None
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    vertical_flip: bool = False
    auto_augment: AutoAugment = "none"
    magnitude: int = 9
    operations: int = 2
    grayscale: float = 0.0
    blur: float = 0.0
    random_erasing: float = 0.0
    lighting: float = 0.0

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ValueError for values out of range."""
        for name in ("grayscale", "blur", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is a share and must be in [0, 1], got {getattr(self, name)}")
        least, most = self.crop_scale
        if not 0 < least <= most <= 1:
            raise ValueError(f"--crop-scale must be two shares 0 < A <= B <= 1, got {[least, most]}")
        least, most = self.crop_ratio
        if not 0 < least <= most:
            raise ValueError(f"--crop-ratio must be two ratios 0 < A <= B, got {[least, most]}")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"--magnitude must be in 0..30, got {self.magnitude}")
        if self.operations < 1:
            raise ValueError(f"--operations must be at least 1, got {self.operations}")
        for name in ("magnitude", "operations"):
            value = getattr(self, name)
            if self.auto_augment != "randaugment" and value != getattr(AugmentationSettings, name):
                raise ValueError(f"--{name} {value} is an option of --auto-augment randaugment: add it")
        if self.lighting < 0 or self.color_jitter < 0:
            raise ValueError("--lighting and --color-jitter must be at least 0")


@dataclass(frozen=True)
class ImageSettings(SourceSettings):
    """Data set of labelled images, and its splits.

    Args:
        data: Folder of images: DIR/train/CLASS and DIR/val/CLASS (or test), or DIR/CLASS with --val-split;
            a folder with CIFAR's official files; a file of recursivemix pack; WebDataset shards, as a
            folder or a pattern of paths or URLs; with --dataset hf the name of a Hugging Face data set
            (default: scikit-learn's handwritten digits).
        dataset: Format of --data (default: auto, which detects it).
        table: CSV or Parquet file with one row per image; paths in it are relative to --data (default: to
            the table).
        image_column: Column of --table with the path, or in Parquet the encoded bytes (default: image,
            path, file, filename, file_name or image_path).
        label_column: Column of --table with the label, or several labels separated by ";"; or several
            columns of 0 and 1, one per class (default: label, labels, class or target).
        split_column: Column of --table with train, val or test (default: split, if there is one).
        multi_label: Any number of labels per image, also if no label of a table or of shards contains ";".
        shard_cache: Folder for copies of shards that are not local tar files, and for the indexes of all
            shards (default: ~/.cache/recursivemix/shards).
        shard_cache_gb: Largest total size of these copies in GiB, and of one shard unzipped.
        val_split: Share of each class to hold out, if there is no val or test split.
        holdout: Share of each class of the training images to evaluate on instead of a val or test split,
            which is not used.
        folds: Number of folds for cross-validation, if there is no val or test split; stratified, chosen by
            --split-seed.
        split_seed: Seed of held-out images, folds and the subset of training images (default: --seed).
        fold: Which of the --folds to evaluate on, counted from 0; the others are trained on.
        image_size: Side of the network's input in pixels (default: the images' own size up to 64, else
            224).
        train_images: Number of training images; a stratified random subset (default: all).
        exact_decoding: Decode every image at its full size; by default, one whose crop is larger than the
            network's input is decoded at 1/2, 1/4 or 1/8, which is faster and changes pixels slightly.
        max_pixels: Largest number of pixels of an image, half of it for WebP; larger ones are refused
            before they are decoded, or left out with --skip-bad.
    """

    dataset: Source = "auto"
    table: Path | None = None
    image_column: str | None = None
    label_column: list[str] = field(default_factory=list)
    split_column: str | None = None
    multi_label: bool = False
    shard_cache: Path | None = None
    shard_cache_gb: float = 20.0
    val_split: float | None = None
    holdout: float | None = None
    folds: int | None = None
    fold: int = 0
    split_seed: int | None = None
    image_size: int | None = None
    train_images: int | None = None
    exact_decoding: bool = False
    max_pixels: int = MAX_PIXELS

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from the plain values in a checkpoint; those of other settings are ignored."""
        options = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name in ("data", "table", "shard_cache"):
            if options.get(name) is not None:
                options[name] = Path(options[name])
        return cls(**options)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        for name, share in (("--val-split", self.val_split), ("--holdout", self.holdout)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name} is a share of each class and must be in (0, 1), got {share}")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"--folds must be at least 2, got {self.folds}")
        if self.folds is None and self.fold:
            raise ValueError(f"--fold {self.fold} needs the number of folds, such as --folds 5")
        if self.folds is not None and not 0 <= self.fold < self.folds:
            raise ValueError(
                f"--fold must be in 0..{self.folds - 1} for --folds {self.folds}, got {self.fold}"
            )
        choices = {"--folds": self.folds, "--val-split": self.val_split, "--holdout": self.holdout}
        given = [name for name, value in choices.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both choose the evaluation images: give one of them")
        if self.shard_cache_gb <= 0:
            raise ValueError(f"--shard-cache-gb must be > 0, got {self.shard_cache_gb}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"--image-size must be at least 1, got {self.image_size}")
        if not 1 <= self.max_pixels <= PILLOW_LIMIT:
            raise ValueError(
                f"--max-pixels must be in 1..{PILLOW_LIMIT} (Pillow's own limit), got {self.max_pixels}"
            )
