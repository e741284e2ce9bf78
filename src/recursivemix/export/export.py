"""Write the network of a checkpoint in the form that another library loads, and check it by loading it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from .hf_folder import write_hf
from .onnx_file import write_onnx
from .reference import Reference, read_reference
from .report import ExportReport
from .timm_file import write_timm
from .torchvision_file import write_torchvision

Target = Literal["timm", "torchvision", "hf", "onnx"]
Writer = Callable[[Reference, Path, Path, bool], ExportReport]

TARGETS: dict[str, tuple[Writer, str]] = {
    "timm": (write_timm, ".safetensors"),
    "torchvision": (write_torchvision, ".safetensors"),
    "hf": (write_hf, ""),
    "onnx": (write_onnx, ".onnx"),
}
"""The function that writes each target, and the ending of its file; hf writes a folder."""


def export_checkpoint(
    checkpoint: Path, to: Target, out: Path, allow_mismatch: bool = False
) -> ExportReport:
    """Export the network of a checkpoint, without its region head, for another library.

    The result is loaded again with that library's own call and must give the same logits.

    Args:
        checkpoint: Checkpoint of a classification run.
        to: timm, torchvision, hf (Hugging Face transformers) or onnx.
        out: File to write, or folder for hf; must be new. A missing ending is added.
        allow_mismatch: If the library's network differs (for images up to 64 pixels it has another stem),
            write the weights that it can load, as a start for fine-tuning.

    Raises:
        ValueError: the checkpoint, the library's network or the output cannot be used; nothing is written.
    """
    if to not in TARGETS:
        raise ValueError(f"--to must be one of {', '.join(TARGETS)}, got {to!r}")
    write, suffix = TARGETS[to]
    if not out.name.endswith(suffix):
        out = out.with_name(out.name + suffix)
    if out.exists():
        raise ValueError(f"{out} already exists: name a new one with --out")
    reference = read_reference(checkpoint)
    with staged(out) as path:
        return write(reference, path, out, allow_mismatch)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder beside ``out``, and move it to ``out`` if no error occurs.

    Raises:
        ValueError: the place cannot be written to.
    """
    folders = [folder for folder in out.absolute().parents if not folder.exists()]  # the nearest first
    stage: Path | None = None
    finished = False
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        path = stage / out.name
        yield path
        path.rename(out)
        finished = True
    except OSError as error:
        raise ValueError(f"cannot write {out} (--out): {error}") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for folder in [] if finished else folders:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
