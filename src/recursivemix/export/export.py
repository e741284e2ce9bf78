"""A checkpoint's backbone in the form that another library loads, checked by loading it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from .hf_folder import write_hf
from .onnx_file import write_onnx
from .report import ExportReport
from .timm_file import write_timm
from .torchvision_file import write_torchvision
from .trained import Trained, read_trained

Target = Literal["timm", "torchvision", "hf", "onnx"]
Writer = Callable[[Trained, Path, Path, bool], ExportReport]

# What writes a target, and how its file ends; Hugging Face's is a folder.
TARGETS: dict[str, tuple[Writer, str]] = {
    "timm": (write_timm, ".safetensors"),
    "torchvision": (write_torchvision, ".safetensors"),
    "hf": (write_hf, ""),
    "onnx": (write_onnx, ".onnx"),
}


def export_checkpoint(
    checkpoint: Path, to: Target, out: Path, allow_mismatch: bool = False
) -> ExportReport:
    """Write a checkpoint's backbone, without its region head, for another library.

    What was written is loaded again with that library's own call and must give the same logits.

    Args:
        checkpoint: File written by recursivemix fit.
        to: timm, torchvision, hf (Hugging Face transformers) or onnx.
        out: File to write, whose ending is added if it lacks it; for hf a folder. Must be new.
        allow_mismatch: Where the library's network is another (up to 64 pixels it gets another stem here),
            write the weights that it can take, to fine-tune from.

    Raises:
        ValueError: anything that the person who asked can mend; nothing is left behind then.
    """
    if to not in TARGETS:
        raise ValueError(f"--to must be one of {', '.join(TARGETS)}, got {to!r}")
    write, suffix = TARGETS[to]
    if not out.name.endswith(suffix):
        out = out.with_name(out.name + suffix)
    if out.exists():
        raise ValueError(f"{out} already exists: name a new one with --out")
    trained = read_trained(checkpoint)
    with staged(out) as path:
        return write(trained, path, out, allow_mismatch)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path beside ``out`` of the same name, which becomes ``out`` if all goes well and is gone if not.

    Raises:
        ValueError: the place can't be written to.
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
