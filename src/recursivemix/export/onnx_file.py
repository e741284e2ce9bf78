"""An ONNX file: any network, (B, 3, H, W) normalised images to (B, K) logits, for a batch of any size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .packages import package
from .report import ExportReport
from .trained import TOLERANCE, Trained

BATCHES = (1, 3)
"""Sizes that every file is run with; it is traced with 2."""
LARGEST = 2**31 - 2**24
"""Bytes of weights: an ONNX file is one protobuf message of less than 2 GiB, with the graph in it."""


def write_onnx(trained: Trained, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write an ONNX file and run it with onnxruntime; arguments as in `write_timm`.

    Raises:
        ValueError: the network can't be exported for a batch of any size, or the file computes otherwise.
    """
    for name in ("onnx", "onnxscript"):  # torch's exporter works with them
        package(name, "onnx")
    onnxruntime = package("onnxruntime", "onnx")
    size = sum(value.nbytes for value in trained.backbone.state_dict().values())
    if size > LARGEST:
        raise ValueError(
            f"{trained.model} has {size / 2**30:.1f} GiB of weights, and an ONNX file holds less "
            f"than 2 GiB: use --to timm or hf"
        )
    program = trace(trained)
    program.model.metadata_props.update(trained.metadata())
    program.save(path, external_data=False)
    difference = check_run(trained, path, onnxruntime)
    side = trained.image_size
    call = (
        f"import onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(out)!r})\n"
        f'(logits,) = session.run(["logits"], {{"images": images}})'
        f"  # float32 (B, 3, {side}, {side}), normalised"
    )
    return ExportReport("onnx", trained.model, out, None, difference, trained.scale, call)


def trace(trained: Trained) -> Any:
    """The network as torch's ``ONNXProgram``, with a free batch size.

    Raises:
        ValueError: torch can't export it so.
    """
    with warnings.catch_warnings(), plain_attention(trained.backbone):
        # Levit keeps its attention biases in a cache while it runs; the traced pass fills it.
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        try:
            program: Any = torch.onnx.export(
                trained.backbone,
                (trained.images[:2],),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            cause = next(line for line in str(error.__cause__ or error).splitlines() if line.strip())
            raise ValueError(
                f"torch can't export {trained.model} to ONNX for a batch of any size: {cause.strip()}. "
                f"Use --to timm, torchvision or hf, if the network is theirs"
            ) from error
    batch = program.model.graph.inputs[0].shape[0]
    if isinstance(batch, int):  # a free one has a name
        raise ValueError(
            f"torch exports {trained.model} to ONNX for a batch of {batch} alone, since the network "
            f"computes with the size it is traced with. Use --to timm, torchvision or hf, if it is theirs"
        )
    return program


@contextmanager
def plain_attention(backbone: nn.Module) -> Iterator[None]:
    """timm's attention as products and a softmax: torch can't export the fused one of BEiT and MaxViT."""
    fused: list[Any] = [module for module in backbone.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def check_run(trained: Trained, path: Path, onnxruntime: Any) -> float:
    """Run the file with batches of other sizes than the traced one's; the largest difference of a logit.

    Raises:
        ValueError: a batch that doesn't run, or other logits than torch's.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    worst = 0.0
    for batch in BATCHES:
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            (logits,) = session.run(["logits"], {"images": trained.images[:batch].numpy()})
        except Exception as error:  # onnxruntime's own errors have no other common base
            raise ValueError(
                f"the ONNX file of {trained.model} does not run with a batch of {batch}, though it was "
                f"exported for any: {' '.join(str(error).split())}. Use --to timm, torchvision or hf"
            ) from error
        difference = trained.difference(Tensor(logits))
        if logits.shape != (batch, len(trained.classes)) or not trained.agrees(difference):
            raise ValueError(
                f"the ONNX file of {trained.model} gives {logits.shape} logits that differ by "
                f"{difference:.2g} from torch's with a batch of {batch}, more than {TOLERANCE:g} of the "
                f"largest, {trained.scale:.2g}. Use --to timm, torchvision or hf"
            )
        worst = max(worst, difference)
    return worst
