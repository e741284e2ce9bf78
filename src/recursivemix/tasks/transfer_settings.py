"""Settings of a transfer run, by task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recursivemix.data.names import DetectionSource, SegmentationSource
from recursivemix.training.optimizer import Schedule, check_optimizer
from recursivemix.training.run import Device, Precision, check_device

from .backbone import NormPolicy

DenseMixer = Literal["none", "recursivemix"]
METRIC_NAMES = {
    "ap": "box AP", "ap50": "box AP50", "ap75": "box AP75", "aps": "box AP, small", "apm": "box AP, medium",
    "apl": "box AP, large", "segm_ap": "mask AP", "segm_ap50": "mask AP50", "segm_ap75": "mask AP75",
    "segm_aps": "mask AP, small", "segm_apm": "mask AP, medium", "segm_apl": "mask AP, large",
    "miou": "mIoU", "macc": "mAcc", "aacc": "aAcc",
}  # fmt: skip
"""What is measured, in words; all in percent."""


@dataclass(frozen=True)
class TransferConfig:
    """What every task has.

    Args:
        backbone: A checkpoint of recursivemix fit, a file of recursivemix export or any other of weights,
            the name of a timm model for its pretrained weights (with --download), or random.
        model: Name of the network, for files that don't say it and for --backbone random. Default there:
            resnet10t.
        download: Let timm fetch pretrained weights.
        data: Folder of annotated images. Without it, scenes of scikit-learn's handwritten digits.
        norm: Batch norm of the backbone: frozen (nothing is trained), statistics (scale and shift are, the
            paper's for detection), train, sync (over all devices, the paper's for segmentation), or auto:
            statistics for detection with a trained backbone, else train.
        frozen_stages: Stages of the backbone that are not trained, counted from the input; 0 is none.
            Default: 1 for detection with a trained backbone, as in the paper, else 0.
        mixer: none, or recursivemix: the previous batch is shrunk and pasted, with its boxes, masks or
            label maps.
        mixer_options: Settings of the mixer, such as --mixer-options.max-area 0.25.
        epochs: Passes over the training images.
        batch_size: Images a step, on each device.
        grad_accum_steps: Batches whose gradients make one step of the optimiser.
        optimizer: sgd (with Nesterov momentum), momentum (without), adamw, or any of timm.optim.
        optimizer_options: Further settings of the optimiser, such as --optimizer-options.betas [0.9,0.95].
        lr: Peak learning rate, for the whole batch. Default: 0.001 with random weights, else 0.0002.
        momentum: Of SGD and its kin.
        weight_decay: Weight decay.
        decay_norms: Weight decay on norms and biases too.
        schedule: cosine, step (by gamma at each milestone), poly (to the power of gamma) or constant; by
            step, after a linear warm-up.
        milestones: Epochs at which --schedule step lowers the rate.
        gamma: What --schedule step multiplies the rate by, or the power of --schedule poly.
        warmup_epochs: Epochs over which the rate rises. Default: a twentieth of the run.
        clip: Largest norm of the gradients; 0 leaves them.
        evaluate_every: Epochs between two evaluations; the last one is always evaluated.
        workers: Processes that read images. Default: 0 for the scenes, else 2.
        seed: Of weights, order, augmentation and mixing.
        device: cpu, gpu, or auto for what is there.
        devices: How many of them train together. Default: 1, or what the launcher says.
        precision: bf16, 16, 32, or auto: bf16 where the processor computes in it.
        checkpoint_every: Steps between two checkpoints. Default: by the clock, 30 s or more apart, for at
            most a fiftieth of the time.
        out: Folder of the run; must be new. Default: runs/DATE-TIME-TASK-MODEL.
    """

    backbone: str = "random"
    model: str | None = None
    download: bool = False
    data: Path | None = None
    norm: NormPolicy = "auto"
    frozen_stages: int | None = None
    mixer: DenseMixer = "none"
    mixer_options: dict[str, Any] = field(default_factory=dict)
    epochs: int = 20
    batch_size: int = 8
    grad_accum_steps: int = 1
    optimizer: str = "adamw"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norms: bool = True
    schedule: Schedule = "cosine"
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.1
    warmup_epochs: float | None = None
    clip: float = 0.0
    evaluate_every: int = 1
    workers: int | None = None
    seed: int = 0
    device: Device = "auto"
    devices: int | None = None
    precision: Precision = "auto"
    checkpoint_every: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        least = {
            "epochs": 1, "batch_size": 1, "grad_accum_steps": 1, "weight_decay": 0, "momentum": 0,
            "gamma": 0, "warmup_epochs": 0, "clip": 0, "evaluate_every": 1, "workers": 0, "devices": 1,
            "checkpoint_every": 1, "frozen_stages": 0, "channels": 8, "depth": 1, "max_size": 16,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name, None)
            if value is not None and value < low:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"--lr must be above 0, got {self.lr}")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("--schedule step and --milestones [8,11] belong together")
        if self.norm == "sync" and self.device == "cpu":
            raise ValueError("--norm sync needs GPUs: torch's SyncBatchNorm does not run on a CPU")
        if self.mixer == "none" and self.mixer_options:
            raise ValueError("--mixer-options are of --mixer recursivemix: add that, or leave them out")
        check_optimizer(self.optimizer)
        check_device(self.device)

    # What the trainer asks of every run, and transfer does not offer.

    @property
    def ema_decay(self) -> float | None:
        """No average of the weights."""
        return None

    @property
    def sync_batchnorm(self) -> bool:
        """As ``norm`` says."""
        return self.norm == "sync"

    @property
    def compile(self) -> bool:
        """Sizes differ from batch to batch."""
        return False

    @property
    def loggers(self) -> tuple[()]:
        """CSV and TensorBoard alone."""
        return ()


@dataclass(frozen=True)
class DetectionConfig(TransferConfig):
    """Boxes.

    Args:
        detector: atss and gfl are of this project, fcos and retinanet torchvision's.
        dataset: What --data is: auto (look), scenes, coco or voc.
        image_size: Pixels of the image's shorter side; of several one is drawn for each training batch, the
            last measures.
        max_size: Pixels that the longer side may have.
        channels: Of the feature pyramid and the head; 256 in the papers.
        depth: Convolutions in each tower of the head of atss and gfl; 4 in the papers.
    """

    detector: Literal["atss", "gfl", "fcos", "retinanet"] = "atss"
    dataset: DetectionSource = "auto"
    image_size: list[int] | None = None
    max_size: int = 1333
    channels: int = 128
    depth: int = 2


@dataclass(frozen=True)
class InstanceConfig(TransferConfig):
    """Boxes and masks, by torchvision's Mask R-CNN.

    Args:
        dataset: What --data is: auto (look), scenes or coco.
        image_size: Pixels of the image's shorter side; of several one is drawn for each training batch, the
            last measures.
        max_size: Pixels that the longer side may have.
        channels: Of the feature pyramid and the heads; 256 in the papers.
    """

    dataset: DetectionSource = "auto"
    image_size: list[int] | None = None
    max_size: int = 1333
    channels: int = 128


@dataclass(frozen=True)
class SegmentationConfig(TransferConfig):
    """A class at every pixel.

    Args:
        head: upernet or pspnet, with an auxiliary FCN head.
        dataset: What --data is: auto (look), scenes, ade20k or voc.
        image_size: Pixels a side of the training crops, and of the shorter side of an image of scale 1.
        scales: Range of the random scale of training images.
        color_jitter: Share by which brightness, contrast and saturation vary.
        channels: Of the decoder.
        aux_weight: Of the auxiliary head's loss.
    """

    head: Literal["upernet", "pspnet"] = "upernet"
    dataset: SegmentationSource = "auto"
    image_size: int | None = None
    scales: tuple[float, float] = (0.5, 2.0)
    color_jitter: float = 0.0
    channels: int = 128
    aux_weight: float = 0.4
