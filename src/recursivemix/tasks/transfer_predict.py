"""What a transferred network sees in a folder of images, as pictures and as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from recursivemix.data.formats.folder import as_rgb, opened_file
from recursivemix.models.checkpoint_file import read_checkpoint
from recursivemix.report.cells import write_picture
from recursivemix.report.predictions import confident, drawn, predict_one
from recursivemix.tasks.backbone import new_backbone
from recursivemix.tasks.detection.learner import DetectionLearner
from recursivemix.tasks.detection.metrics import detections_as_results
from recursivemix.tasks.measure import settings_from
from recursivemix.tasks.segmentation.learner import SegmentationLearner
from recursivemix.tasks.settings import DetectionSettings, InstanceSettings, SegmentationSettings
from recursivemix.training.atomic_write import write_json, write_text
from recursivemix.training.devices import check_device
from recursivemix.training.settings import Device


def load_learner(path: Path) -> DetectionLearner | SegmentationLearner:
    """The network of a checkpoint that ``recursivemix transfer`` wrote.

    Raises:
        ValueError: a file that is missing or is no such checkpoint.
    """
    content = read_checkpoint(path)
    settings: dict[str, Any] = content["hyper_parameters"]
    module: DetectionLearner | SegmentationLearner
    if "head" in settings:
        chosen = settings_from(SegmentationSettings, settings)
        module = SegmentationLearner(chosen, new_backbone(settings["backbone"]), settings)
    elif "detector" in settings:
        kind = InstanceSettings if settings["detector"] == "maskrcnn" else DetectionSettings
        objects: Any = settings_from(kind, settings)
        module = DetectionLearner(objects, new_backbone(settings["backbone"]), settings, {})
    else:
        raise ValueError(
            f"{path} is no checkpoint of recursivemix transfer but of fit: recursivemix test, evaluate and "
            f"export take it"
        )
    module.load_state_dict(content["state_dict"])
    return module


def predict(checkpoint: Path, images: Path, out: Path, device: Device = "auto") -> tuple[int, Path]:
    """Write pictures and results of every image of a folder.

    Detections go to OUT/detections.json in COCO's layout: images, categories, and annotations with scores.
    Label maps go to OUT/maps/NAME.png as ADE20K has them, 1 + class at every pixel, with OUT/classes.txt.

    Args:
        checkpoint: File written by recursivemix transfer.
        images: Folder of images.
        out: Folder to write to; must be new or empty.
        device: cpu, gpu, or auto for what is there.

    Returns:
        How many images, and the folder.

    Raises:
        ValueError: no such checkpoint, no images, or a folder that is not empty.
    """
    check_device(device)
    if not images.is_dir():
        raise ValueError(f"--images: there is no folder {images}")
    files = sorted(file for file in images.iterdir() if file.suffix.lower() in IMG_EXTENSIONS)
    if not files:
        raise ValueError(f"--images: {images} holds no images ({', '.join(IMG_EXTENSIONS)})")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out: {out} is not empty")
    module = load_learner(checkpoint)
    module.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    classes: list[str] = module.hparams["classes"]
    ids: list[int] = module.hparams["data"]["category_ids"] or list(range(1, len(classes) + 1))
    about: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, file in enumerate(files, start=1):
        with opened_file(file) as source:
            image = as_rgb(source)
        target, scores = predict_one(module, image)
        picture = drawn(image, *confident(target, scores), classes)
        write_picture(picture, out / "pictures" / f"{file.name}.png")
        height, width = image.shape[-2:]
        about.append({"id": number, "file_name": file.name, "width": width, "height": height})
        if isinstance(target, torch.Tensor):
            place = out / "maps" / f"{file.stem}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((target + 1).byte().numpy()).save(place)
            continue
        assert scores is not None
        annotations += detections_as_results(
            number, target.boxes, scores, target.labels, tuple(ids), target.masks
        )
    if isinstance(module, SegmentationLearner):
        write_text(out / "classes.txt", "\n".join(classes) + "\n")
        return len(files), out
    for number, one in enumerate(annotations, start=1):
        one |= {"id": number, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0}
    categories = [{"id": i, "name": name} for i, name in zip(ids, classes, strict=True)]
    write_json(
        out / "detections.json", {"images": about, "categories": categories, "annotations": annotations}
    )
    return len(files), out
