"""Settings of each task; those that all tasks share are in `training.settings`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from recursivemix.data.names import Cache, DetectionSource, SegmentationSource
from recursivemix.data.settings import AugmentationSettings, ImageSettings
from recursivemix.models.preprocessing import Interpolation
from recursivemix.tasks.detection.names import BoxDetector
from recursivemix.tasks.segmentation.names import Head
from recursivemix.training.checked import Checked
from recursivemix.training.settings import RunSettings

InitHead = Literal["keep", "random", "zero"]
BALANCED = "balanced"
"""Value of ``--class-weights`` that stands for weights from the numbers of training images."""
GROUPS = 32
"""Groups of the group normalization of torchvision's FCOS."""
RegionHead = Literal["separate", "shared"]
DenseMixer = Literal["none", "recursivemix"]
NormPolicy = Literal["auto", "frozen", "statistics", "train", "sync"]


@dataclass(frozen=True)
class FinetuneSettings(Checked):
    """Trained weights to start from.

    Args:
        weights: Start from this file: a checkpoint, an export, or weights of timm or torchvision for
            --model. A classifier of another size is replaced.
        pretrained: Start from timm's weights of --model, from timm's cache or with --download.
        init_head: Classifier at the start: keep (the trained one if its size is the same, else random),
            random or zero.
        mean: Mean of the channels in [0, 1] (default: of the trained weights, else of the data).
        std: Standard deviation of the channels (default: as for --mean).
        interpolation: Filter of every resize (default: of the trained weights, else bilinear).
        crop_pct: Share of the shorter side that evaluation keeps (default: of the trained weights; else 1
            up to 64 pixels, and 0.875).
        freeze: Do not train these parts, nor update their batch normalization: backbone (all but the
            classifier), a number of stages from the input, or names of modules such as conv1,layer1.
        unfreeze_epoch: First epoch that trains the parts of --freeze too, counted from 0 (default: never).
        layer_decay: Factor of the learning rate from each layer to the one before it, such as 0.75.
        head_lr: Peak learning rate of the classifier and the region head (default: --lr).
        drop_path: Largest probability of dropping a residual branch (default: of the network, mostly 0).
        drop: Probability of dropout before the classifier (default: of the network).
    """

    weights: Path | None = None
    pretrained: bool = False
    init_head: InitHead = "keep"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation | None = None
    crop_pct: float | None = None
    freeze: int | str | None = None
    unfreeze_epoch: int | None = None
    layer_decay: float | None = None
    head_lr: float | None = None
    drop_path: float | None = None
    drop: float | None = None

    @property
    def fine_tunes(self) -> bool:
        """Whether training starts from trained weights."""
        return self.weights is not None or self.pretrained

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        if self.weights is not None and self.pretrained:
            raise ValueError(
                "--weights and --pretrained both name trained weights: give one of them, or "
                "--no-pretrained if a settings file has pretrained: true"
            )
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"--std must be > 0, got {list(self.std)}")
        if self.crop_pct is not None and not 0.125 <= self.crop_pct <= 1:
            raise ValueError(f"--crop-pct must be in [0.125, 1], got {self.crop_pct}")
        self.check_least(1, "unfreeze_epoch")
        if self.unfreeze_epoch is not None and self.freeze is None:
            raise ValueError(
                "--unfreeze-epoch needs --freeze: backbone, a number of stages, or module names"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer-decay must be in (0, 1], got {self.layer_decay}")
        if self.head_lr is not None and not self.head_lr > 0:
            raise ValueError(f"--head-lr must be > 0, got {self.head_lr}")
        for flag, value in (("--drop-path", self.drop_path), ("--drop", self.drop)):
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{flag} must be in [0, 1), got {value}")


@dataclass(frozen=True)
class ClassificationSettings(FinetuneSettings, RunSettings, ImageSettings, AugmentationSettings):
    """Classification.

    Args:
        cache: Keep all decoded images in memory, on the device if they fit: yes, no, or auto (small images,
            up to 2 GiB in total).
        model: resnet20 and its relatives for small images, or any timm model.
        region_head: separate (as published) or shared; for mixers that train regions.
        label_smoothing: Share of each label that is spread evenly over all classes.
        bce: Train on binary cross-entropy with the mixed labels, as in arXiv 2110.00476.
        class_weights: Weights of the classes in the loss: balanced (inversely proportional to their number
            of training images), or a JSON file with a number for each class name.
        balanced_sampling: Draw as many training images of each class; those of rare classes repeat. An
            epoch has as many images as without.
    """

    task: ClassVar[str] = "recursivemix.tasks.classification:CLASSIFICATION"

    lr: float = 0.1
    cache: Cache = "auto"
    model: str = "resnet20"
    region_head: RegionHead = "separate"
    label_smoothing: float = 0.0
    bce: bool = False
    class_weights: str | None = None
    balanced_sampling: bool = False

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        if self.unfreeze_epoch is not None and self.unfreeze_epoch >= self.epochs:
            raise ValueError(
                f"--unfreeze-epoch must be < --epochs {self.epochs}, got {self.unfreeze_epoch}; leave it "
                f"out to keep --freeze until the end"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.bce and "loss" in self.mixer_options:
            raise ValueError("--bce and --mixer-options.loss are the same: give one")
        if self.class_weights is not None and "class_weights" in self.mixer_options:
            raise ValueError("--class-weights and --mixer-options.class-weights are the same: give one")
        if self.label_smoothing and "label_smoothing" in self.mixer_options:
            raise ValueError("--label-smoothing and --mixer-options.label-smoothing are the same: give one")

    def with_absolute_paths(self) -> Self:
        """Return settings that hold in any working directory: with absolute paths of what exists."""
        weights = self.class_weights
        if weights not in (None, BALANCED) and Path(weights).exists():
            weights = str(Path(weights).absolute())
        return replace(super().with_absolute_paths(), class_weights=weights)

    @property
    def reading_processes(self) -> int:
        return 2 if self.workers is None and self.table is not None else super().reading_processes


@dataclass(frozen=True)
class TransferSettings(RunSettings):
    """Backbone and head.

    Args:
        backbone: A checkpoint of recursivemix fit, a file of recursivemix export or other weights, the name
            of a timm model for its pretrained weights (with --download), or random.
        model: Name of the network, for files that do not state it and for --backbone random (default:
            resnet10t).
        data: Folder of annotated images (default: synthetic scenes of scikit-learn's handwritten digits).
        norm: Batch normalization of the backbone: frozen (nothing is trained), statistics (running
            statistics are fixed, as published for detection), train, sync (train, synchronized over all
            devices, as published for segmentation), or auto (statistics for detection with a trained
            backbone, else train).
        frozen_stages: Number of backbone stages that are not trained, counted from the input (default: 1
            for detection with a trained backbone of four stages, as published; else 0).
        mixer: none, or recursivemix (paste the previous batch with its boxes, masks or label maps).
        lr: Peak learning rate, for the total batch (default: 0.001 with random weights, else 0.0002).
        channels: Number of channels of the feature pyramid and the heads; 256 in the published detectors.
    """

    epochs: int = 20
    batch_size: int = 8
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    mixer: DenseMixer = "none"
    backbone: str = "random"
    model: str | None = None
    norm: NormPolicy = "auto"
    frozen_stages: int | None = None
    channels: int = 128

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        self.check_least(0, "frozen_stages")
        self.check_least(8, "channels")
        if self.norm == "sync" and self.device == "cpu":
            raise ValueError("--norm sync needs GPUs: torch's SyncBatchNorm does not run on a CPU")
        if self.mixer == "none" and self.mixer_options:
            raise ValueError("--mixer-options need --mixer recursivemix: add it, or leave the options out")

    def with_absolute_paths(self) -> Self:
        """Return settings that hold in any working directory: with absolute paths of what exists."""
        backbone = Path(self.backbone)
        source = str(backbone.absolute()) if backbone.is_file() else self.backbone
        return replace(super().with_absolute_paths(), backbone=source)


@dataclass(frozen=True)
class ObjectSettings(TransferSettings):
    """Objects.

    Args:
        image_size: Shorter side of the images in pixels; of several, one is drawn for each training batch
            and the last is used in evaluation.
        max_size: Longest side of the images in pixels.
    """

    image_size: list[int] | None = None
    max_size: int = 1333

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        self.check_least(16, "max_size")
        if self.image_size is not None and (not self.image_size or min(self.image_size) < 1):
            raise ValueError(f"--image-size must be at least 1, got {self.image_size}")
        if self.compile:
            raise ValueError("--compile is for classification and segmentation: detectors vary in shape")


@dataclass(frozen=True)
class DetectionSettings(ObjectSettings):
    """Detection.

    Args:
        detector: Name of the detector; atss and gfl are of this project, the others torchvision's.
        dataset: Format of --data: auto (detect), scenes, coco or voc.
        depth: Convolutions in each tower of the head of atss and gfl; 4 in the papers.
    """

    task: ClassVar[str] = "recursivemix.tasks.detection.task:DETECTION"

    detector: BoxDetector = "atss"
    dataset: DetectionSource = "auto"
    depth: int = 2

    def check(self) -> None:
        """Raise ValueError for values out of range."""
        self.check_least(1, "depth")
        # Groups of one channel have a single value in a map of one pixel, which cannot be normalized.
        if self.detector == "fcos" and (self.channels % GROUPS or self.channels == GROUPS):
            raise ValueError(
                f"--channels must be a multiple of {GROUPS} from {2 * GROUPS} on for --detector fcos, got "
                f"{self.channels}"
            )
        default = type(self).depth
        if self.detector not in ("atss", "gfl") and self.depth != default:
            raise ValueError(
                f"--depth is for --detector atss and gfl, not {self.detector}: leave it out, or use the "
                f"default, {default}"
            )


@dataclass(frozen=True)
class InstanceSettings(ObjectSettings):
    """Instance segmentation, by torchvision's Mask R-CNN.

    Args:
        dataset: Format of --data: auto (detect), scenes or coco.
    """

    task: ClassVar[str] = "recursivemix.tasks.detection.task:INSTANCE"

    dataset: DetectionSource = "auto"


@dataclass(frozen=True)
class SegmentationSettings(TransferSettings):
    """Semantic segmentation.

    Args:
        head: Name of the head; an auxiliary FCN head helps its training.
        dataset: Format of --data: auto (detect), scenes, ade20k or voc.
        image_size: Side of the training crops in pixels, and shorter side of an image at scale 1.
        scales: Range of the random scale of training images.
        aux_weight: Weight of the auxiliary head's loss.
    """

    task: ClassVar[str] = "recursivemix.tasks.segmentation.task:SEGMENTATION"

    head: Head = "upernet"
    dataset: SegmentationSource = "auto"
    image_size: int | None = None
    scales: tuple[float, float] = (0.5, 2.0)
    aux_weight: float = 0.4

    def check(self) -> None:
        """Raise ValueError for values out of range."""
        self.check_least(1, "image_size")
        self.check_least(0, "aux_weight")
        least, most = self.scales
        if not 0 < least <= most:
            raise ValueError(f"--scales must be two numbers, 0 < least <= most, got {list(self.scales)}")


def undo_yaml_coercion(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings read from YAML with ``yes``, ``no`` and numbers turned back into words."""
    words = dict(settings)
    if "precision" in words:
        words["precision"] = str(words["precision"])
    if isinstance(words.get("cache"), bool):
        words["cache"] = "yes" if words["cache"] else "no"
    return words
