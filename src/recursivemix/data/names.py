"""Names that options of the data take. Standard library only."""

from typing import Literal

Source = Literal["auto", "digits", "folder", "cifar10", "cifar100", "hf"]
DetectionSource = Literal["auto", "scenes", "coco", "voc"]
SegmentationSource = Literal["auto", "scenes", "ade20k", "voc"]
Crop = Literal["pad", "resized", "none"]
Cache = Literal["auto", "yes", "no"]
