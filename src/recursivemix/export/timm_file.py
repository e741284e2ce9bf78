"""A safetensors file with timm's keys, for ``timm.create_model(..., checkpoint_path=FILE)``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm

from .packages import package
from .report import ExportReport
from .trained import Trained
from .twin import Twin, call_arguments, check_read_back, make_twin, require_same, save_weights


def write_timm(trained: Trained, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write a file for timm and read it back with timm.

    Args:
        trained: the network.
        path: where to write.
        out: where the file will lie in the end, for the report.
        allow_mismatch: see `export_checkpoint`.

    Raises:
        ValueError: see `require_same`.
    """
    package("safetensors.torch", "timm")  # timm reads the file with it
    twin = timm_twin(trained)
    require_same(twin, trained, allow_mismatch)
    metadata = trained.metadata() | {"model_args": json.dumps(twin.arguments)}
    save_weights(path, twin.loadable, metadata, "timm")
    create = f"{trained.model!r}, num_classes={len(trained.classes)}"
    options: dict[str, Any] = {"num_classes": len(trained.classes), **twin.arguments}
    if twin.keys.same:
        loaded = timm.create_model(trained.model, checkpoint_path=str(path), **options)
        create += f", checkpoint_path={str(out)!r}{call_arguments(twin.arguments)}"
        call = f"import timm\nmodel = timm.create_model({create}).eval()"
    else:
        loaded = timm.create_model(trained.model, **options)
        loaded.load_state_dict(package("safetensors.torch", "timm").load_file(path), strict=False)
        call = (
            f"import safetensors.torch, timm\n"
            f"model = timm.create_model({create}{call_arguments(twin.arguments)})\n"
            f"model.load_state_dict(safetensors.torch.load_file({str(out)!r}), strict=False)"
        )
    difference = check_read_back(twin, trained, loaded)
    return ExportReport("timm", trained.model, out, twin.keys, difference, trained.scale, call)


def timm_twin(trained: Trained) -> Twin:
    """timm's network of this name: with the sizes that make it the same, else the one with most keys.

    Raises:
        ValueError: timm knows none of this name, or can make none for this size.
    """
    require_library_network(trained)
    weights = trained.weights()
    best: Twin | None = None
    failure: Exception | None = None
    for arguments in sizes_to_try(trained):
        try:
            network = timm.create_model(
                trained.model, pretrained=False, num_classes=len(trained.classes), **arguments
            )
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            failure = error  # most convolutional networks take no sizes
            continue
        twin = make_twin(trained, "timm", trained.model, network, weights, arguments)
        if twin.same:
            return twin
        if best is None or len(twin.keys.matched) > len(best.keys.matched):
            best = twin
    if best is None:
        raise ValueError(f"timm can't make {trained.model} for {trained.image_size} pixels: {failure}")
    return best


def require_library_network(trained: Trained) -> None:
    """Refuse a network that no library has; every other one was made by timm.

    Raises:
        ValueError: timm knows none of this name.
    """
    if not timm.is_model(trained.model):
        raise ValueError(
            f"{trained.model} is recursivemix's own network, which timm, torchvision and transformers "
            f"don't have: use --to onnx, or build it in Python with recursivemix.models.create.create_model"
            f"({trained.model!r}, {len(trained.classes)}, {trained.image_size})"
        )


def sizes_to_try(trained: Trained) -> list[dict[str, Any]]:
    """Arguments to make the network with, fewest first: those of a fixed input size must be told theirs."""
    tries: list[dict[str, Any]] = [{}, {"img_size": trained.image_size}]
    patch = getattr(getattr(trained.backbone, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and len(set(patch)) == 1:
        tries.append({"img_size": trained.image_size, "patch_size": int(patch[0])})
    return tries
