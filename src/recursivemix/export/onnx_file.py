"""An ONNX file of any network: (B, 3, H, W) normalized images to (B, K) logits, for any batch size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .packages import package
from .reference import TOLERANCE, Reference
from .report import ExportReport

BATCHES = (1, 3)
"""Batch sizes that every file is tested with; it is traced with 2."""
LARGEST = 2**31 - 2**24
"""Bytes of weights: an ONNX file is one protobuf message of less than 2 GiB, including the graph."""


def write_onnx(reference: Reference, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write an ONNX file and run it with onnxruntime; arguments as in `write_timm`.

    Raises:
        ValueError: the network cannot be exported for any batch size, or the file gives other logits.
    """
    for name in ("onnx", "onnxscript"):  # torch's exporter needs them
        package(name, "onnx")
    onnxruntime = package("onnxruntime", "onnx")
    size = sum(value.nbytes for value in reference.network.state_dict().values())
    if size > LARGEST:
        raise ValueError(
            f"{reference.model} has {size / 2**30:.1f} GiB of weights, and an ONNX file holds less "
            f"than 2 GiB: use --to timm or hf"
        )
    program = trace(reference)
    program.model.metadata_props.update(reference.metadata())
    program.save(path, external_data=False)
    difference = check_run(reference, path, onnxruntime)
    call = loading_call(reference, out)
    return ExportReport("onnx", reference.model, out, None, difference, reference.scale, call)


def loading_call(reference: Reference, out: Path) -> str:
    """Return Python that loads the file and classifies an image, with NumPy, Pillow and onnxruntime."""
    colors = reference.trained.preprocessing
    filter_name = colors.interpolation.upper()
    names = 'json.loads(session.get_modelmeta().custom_metadata_map["label_names"])'
    labels = f"label = {names}[logits.argmax()]"
    if reference.multi_label:  # those of a probability above one half
        labels = f"labels = [name for name, logit in zip({names}, logits[0]) if logit > 0]"
    return f"""\
import json, numpy, onnxruntime
from PIL import Image, ImageOps
session = onnxruntime.InferenceSession({str(out)!r})
# of a file: resize the shorter side to {colors.resize}, crop {colors.size} x {colors.size}, normalize
image = Image.open(file).convert("RGB")
image = ImageOps.scale(image, {colors.resize} / min(image.size), Image.Resampling.{filter_name})
left, top = ((side - {colors.size}) // 2 for side in image.size)
image = image.crop((left, top, left + {colors.size}, top + {colors.size}))
pixels = (numpy.float32(image) / 255 - numpy.float32({colors.mean})) / numpy.float32({colors.std})
(logits,) = session.run(["logits"], {{"images": pixels.transpose(2, 0, 1)[None]}})
{labels}"""


def trace(reference: Reference) -> Any:
    """Return torch's ``ONNXProgram`` of the network, for any batch size.

    Raises:
        ValueError: torch cannot export it.
    """
    with warnings.catch_warnings(), plain_attention(reference.network):
        # Levit caches its attention biases; the traced pass fills the cache.
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        try:
            program: Any = torch.onnx.export(
                reference.network,
                (reference.images[:2],),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            cause = next(line for line in str(error.__cause__ or error).splitlines() if line.strip())
            raise ValueError(
                f"torch cannot export {reference.model} to ONNX for any batch size: {cause.strip()}. "
                f"Use --to timm, torchvision or hf, if they have this network"
            ) from error
    batch = program.model.graph.inputs[0].shape[0]
    if isinstance(batch, int):  # a variable one has a name
        raise ValueError(
            f"torch exports {reference.model} to ONNX for batches of {batch} only, since the network "
            f"computes with the batch size. Use --to timm, torchvision or hf, if they have this network"
        )
    return program


@contextmanager
def plain_attention(backbone: nn.Module) -> Iterator[None]:
    """Turn off timm's fused attention: torch cannot export that of BEiT and MaxViT."""
    fused: list[Any] = [module for module in backbone.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def check_run(reference: Reference, path: Path, onnxruntime: Any) -> float:
    """Run the file with other batch sizes than it was traced with; return the largest logit difference.

    Raises:
        ValueError: a batch fails, or its logits differ from torch's.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    worst = 0.0
    for batch in BATCHES:
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            (logits,) = session.run(["logits"], {"images": reference.images[:batch].numpy()})
        except Exception as error:  # onnxruntime's errors have no other common base
            raise ValueError(
                f"the ONNX file of {reference.model} does not run with a batch of {batch}, although it was "
                f"exported for any: {' '.join(str(error).split())}. Use --to timm, torchvision or hf"
            ) from error
        difference = reference.difference(Tensor(logits))
        if logits.shape != (batch, len(reference.classes)) or not reference.agrees(difference):
            raise ValueError(
                f"the ONNX file of {reference.model} gives {logits.shape} logits that differ by "
                f"{difference:.2g} from torch's with a batch of {batch}, more than {TOLERANCE:g} of the "
                f"largest, {reference.scale:.2g}. Use --to timm, torchvision or hf"
            )
        worst = max(worst, difference)
    return worst
