"""From a folder to boxes, masks or label maps, whatever layout it has."""

from __future__ import annotations

from pathlib import Path

from recursivemix.data.formats.ade20k import open_ade20k
from recursivemix.data.formats.coco import open_coco
from recursivemix.data.formats.scenes import scenes_with_maps, scenes_with_objects
from recursivemix.data.formats.voc import open_voc_detection, open_voc_segmentation

from .annotated import DetectionData, SegmentationData
from .names import DetectionSource, SegmentationSource


def open_detection(
    data: Path | None, kind: DetectionSource = "auto", *, masks: bool = False
) -> DetectionData:
    """Images with boxes, and with masks if asked for.

    Args:
        data: a folder: COCO's (annotations/train.json, train/) or Pascal VOC's; None: the embedded scenes.
        kind: what it is; "auto" looks.
        masks: read a mask for each object.

    Raises:
        ValueError: a folder that is none of these, masks where there are none, a broken annotation.
    """
    if data is None or kind == "scenes":
        return scenes_with_objects(masks)
    folder = _folder(data)
    if kind == "coco" or (kind == "auto" and (folder / "annotations").is_dir()):
        return open_coco(folder, masks=masks)
    if kind == "voc" or _looks_like_voc(folder):
        if masks:
            raise ValueError(f"{folder} is in Pascal VOC's layout, whose objects have no masks: use COCO's")
        return open_voc_detection(folder)
    raise ValueError(
        f"{folder} holds no boxes in a layout that is known: COCO's (annotations/train.json and val.json "
        f"beside train/ and val/) or Pascal VOC's (Annotations, ImageSets/Main, JPEGImages)"
    )


def open_segmentation(data: Path | None, kind: SegmentationSource = "auto") -> SegmentationData:
    """Images with a class at every pixel.

    Args:
        data: a folder: ADE20K's (images/training, annotations/training) or Pascal VOC's; None: the
            embedded scenes.
        kind: what it is; "auto" looks.

    Raises:
        ValueError: a folder that is none of these, a broken annotation.
    """
    if data is None or kind == "scenes":
        return scenes_with_maps()
    folder = _folder(data)
    if kind == "ade20k" or (kind == "auto" and (folder / "annotations").is_dir()):
        return open_ade20k(folder)
    if kind == "voc" or _looks_like_voc(folder):
        return open_voc_segmentation(folder)
    raise ValueError(
        f"{folder} holds no label maps in a layout that is known: ADE20K's (images/training and validation "
        f"beside annotations/) or Pascal VOC's (SegmentationClass, ImageSets/Segmentation, JPEGImages)"
    )


def _folder(data: Path) -> Path:
    if not data.is_dir():
        raise ValueError(f"--data: there is no folder {data}")
    return data


def _looks_like_voc(folder: Path) -> bool:
    return any(
        (place / "JPEGImages").is_dir() for place in (folder, *folder.glob("VOC*"), *folder.glob("*/VOC*"))
    )
