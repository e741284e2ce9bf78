"""A safetensors file with timm's keys, for ``timm.create_model(..., checkpoint_path=FILE)``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm

from recursivemix.models.small import MODELS

from .packages import package
from .reference import Reference
from .report import ExportReport
from .twin import Twin, call_arguments, check_read_back, make_twin, require_same, save_weights


def write_timm(reference: Reference, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write a file for timm and load it with timm.

    Args:
        reference: the trained classifier.
        path: where to write.
        out: final place of the file, for the report.
        allow_mismatch: see `export_checkpoint`.

    Raises:
        ValueError: timm's network differs; see `require_same`.
    """
    package("safetensors.torch", "timm")  # timm reads the file with it
    twin = timm_twin(reference)
    require_same(twin, reference, allow_mismatch)
    metadata = reference.metadata() | {"model_args": json.dumps(twin.arguments)}
    save_weights(path, twin.loadable, metadata, "timm")
    create = f"{reference.model!r}, num_classes={len(reference.classes)}"
    options: dict[str, Any] = {"num_classes": len(reference.classes), **twin.arguments}
    if twin.keys.same:
        loaded = timm.create_model(reference.model, checkpoint_path=str(path), **options)
        create += f", checkpoint_path={str(out)!r}{call_arguments(twin.arguments)}"
        call = f"import timm\nmodel = timm.create_model({create}).eval()"
    else:
        loaded = timm.create_model(reference.model, **options)
        loaded.load_state_dict(package("safetensors.torch", "timm").load_file(path), strict=False)
        call = (
            f"import safetensors.torch, timm\n"
            f"model = timm.create_model({create}{call_arguments(twin.arguments)})\n"
            f"model.load_state_dict(safetensors.torch.load_file({str(out)!r}), strict=False)"
        )
    difference = check_read_back(twin, reference, loaded)
    return ExportReport("timm", reference.model, out, twin.keys, difference, reference.scale, call)


def timm_twin(reference: Reference) -> Twin:
    """Create timm's network of this name, with the sizes that make it equal, else with most equal keys.

    Raises:
        ValueError: timm has no network of this name, or none for this image size.
    """
    require_library_network(reference)
    weights = reference.weights()
    best: Twin | None = None
    failure: Exception | None = None
    for arguments in sizes_to_try(reference):
        try:
            network = timm.create_model(
                reference.model, pretrained=False, num_classes=len(reference.classes), **arguments
            )
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            failure = error  # most convolutional networks take no sizes
            continue
        twin = make_twin(reference, "timm", reference.model, network, weights, arguments)
        if twin.same:
            return twin
        if best is None or len(twin.keys.matched) > len(best.keys.matched):
            best = twin
    if best is None:
        raise ValueError(
            f"timm cannot create {reference.model} for {reference.image_size} pixels: {failure}"
        )
    return best


def require_library_network(reference: Reference) -> None:
    """Refuse the networks that only recursivemix has; all others come from timm.

    Raises:
        ValueError: timm has no network of this name.
    """
    if reference.model in MODELS or not timm.is_model(reference.model):
        raise ValueError(
            f"{reference.model} is recursivemix's own network, which timm, torchvision and transformers do "
            f"not have: use --to onnx, or create it in Python with recursivemix.models.create.create_model"
            f"({reference.model!r}, {len(reference.classes)}, {reference.image_size})"
        )


def sizes_to_try(reference: Reference) -> list[dict[str, Any]]:
    """Arguments to create the network with, fewest first: networks of a fixed input size need theirs."""
    tries: list[dict[str, Any]] = [{}, {"img_size": reference.image_size}]
    patch = getattr(getattr(reference.network, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and len(set(patch)) == 1:
        tries.append({"img_size": reference.image_size, "patch_size": int(patch[0])})
    return tries
