"""Write the network of a checkpoint in the form that another library loads, and check it by loading it.

The libraries are imported when a target needs them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .report import ExportReport

Target = Literal["timm", "torchvision", "hf", "onnx"]
TARGETS = {
    "timm": ("recursivemix.export.timm_file:write_timm", ".safetensors"),
    "torchvision": ("recursivemix.export.torchvision_file:write_torchvision", ".safetensors"),
    "hf": ("recursivemix.export.hf_folder:write_hf", ""),
    "onnx": ("recursivemix.export.onnx_file:write_onnx", ".onnx"),
}
"""``MODULE:FUNCTION`` that writes each target, and the ending of its file; hf writes a folder."""


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
    writer, suffix = TARGETS[to]
    if not out.name.endswith(suffix):
        out = out.with_name(out.name + suffix)
    if out.exists():
        raise ValueError(f"{out} already exists: name a new one with --out")

    from .reference import read_reference

    write = resolve_name(writer)
    reference = read_reference(checkpoint)
    with staged(out) as path:
        report: ExportReport = write(reference, path, out, allow_mismatch)
        return report


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
