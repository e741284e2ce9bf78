"""Checkpoint files: written with a checksum over every byte, read without running code.

Files of weights that other programs wrote are read here too, in the same safe way.

A checkpoint is the ZIP archive that ``torch.save`` writes. Its comment, the last bytes of the file, holds
the SHA-256 digest of all bytes before it. torch and ZIP tools ignore the comment.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

FORMAT = 1
"""Version of the file format; files without it were written before there was a checksum."""
FORMAT_KEY = "checkpoint_format"
MARK = b"recursivemix sha256 "
TRAILER = len(MARK) + 64
END_RECORD = 22
"""Bytes of a ZIP archive's end record without a comment; the last two are the length of the comment."""


CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
"""Keys under which other programs put the weights; averaged ones first, as timm takes them."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used; the message says which one and why."""


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values with ``torch.save``, add the checksum, and wait for the disk.

    Raises:
        OSError, RuntimeError: the file cannot be written; a RuntimeError has the cause in ``__context__``.
    """
    with path.open("w+b") as file:
        torch.save(content | {FORMAT_KEY: FORMAT}, file)
        file.seek(-END_RECORD, os.SEEK_END)
        if not file.read().startswith(b"PK\x05\x06"):
            raise RuntimeError("torch.save wrote no ZIP archive")
        file.seek(-2, os.SEEK_END)
        file.write(TRAILER.to_bytes(2, "little"))
        digest = _digest(file)
        file.write(MARK + digest)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU, after checking its checksum and its tables.

    ``state_dict`` maps names to dense tensors and ``hyper_parameters`` names to values; whether they are
    those of a known network is for the caller to check. Files of earlier versions, without a checksum, are
    read with a warning.

    Raises:
        CheckpointError: the file is missing, damaged, from a newer version, or not a checkpoint of a run.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}{other_checkpoints(path)}")
    try:
        with path.open("rb") as file:
            digest = _stated_digest(file)
            if digest is not None and digest != _digest(file, -TRAILER):
                raise CheckpointError(
                    f"the checkpoint {path} is damaged: its content does not match its checksum"
                    f"{other_checkpoints(path)}"
                )
            file.seek(0)
            if file.read(4) != b"PK\x03\x04":
                raise ValueError("not a ZIP archive")
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, about what is refused below
                content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # the unpickler raises whatever a malformed file leads to
        raise CheckpointError(
            f"the checkpoint {path} is damaged or not a checkpoint ({_reason(error)})"
            f"{other_checkpoints(path)}"
        ) from error
    _check_tables(content, path)
    if digest is None:
        if FORMAT_KEY in content:
            raise CheckpointError(
                f"the checkpoint {path} is damaged: its checksum is missing{other_checkpoints(path)}"
            )
        warnings.warn(
            f"{path} has no checksum (an earlier version wrote it): damage goes unnoticed", stacklevel=2
        )
    return dict(content)


def is_run_checkpoint(path: Path) -> bool:
    """Return whether a file is meant to be a checkpoint of a run, even if it is damaged."""
    if path.suffix != ".ckpt":
        return False
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # reading it as a checkpoint gives a better message
        return True
    return isinstance(content, dict) and "hyper_parameters" in content and "ranks" in content


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file of weights by name, on the CPU, and the metadata of a safetensors file.

    Args:
        path: a safetensors file, or a state dict that ``torch.save`` wrote, alone or in a table.

    Raises:
        CheckpointError: the file is missing, holds no tensors, or cannot be read without running code.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}{other_checkpoints(path)}")
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                content: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path} needs safetensors: pip install safetensors") from error
    except Exception as error:  # the unpickler raises whatever a malformed file leads to
        raise CheckpointError(f"{path} cannot be read as weights: {_reason(error)}") from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, not weights by name")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no weights")
    return tensors, metadata


def is_intact(path: Path) -> bool:
    """Return whether a file is a checkpoint whose content matches its checksum."""
    try:
        with path.open("rb") as file:
            digest = _stated_digest(file)
            return digest is not None and digest == _digest(file, -TRAILER)
    except OSError:
        return False


def _stated_digest(file: BinaryIO) -> bytes | None:
    """The 64 hexadecimal digits that a checkpoint file states, or None."""
    if file.seek(0, os.SEEK_END) < TRAILER:
        return None
    file.seek(-TRAILER, os.SEEK_END)
    trailer = file.read()
    return trailer.removeprefix(MARK) if trailer.startswith(MARK) else None


def _digest(file: BinaryIO, end: int = 0) -> bytes:
    """SHA-256 of a file up to ``end`` bytes from its end (0 or negative), in hexadecimal digits."""
    left = file.seek(end, os.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _reason(error: Exception) -> str:
    """The line of an error that says what is wrong, without torch's advice to read the file unsafely."""
    lines = str(error).replace("WeightsUnpickler error:", "\n").splitlines()
    advice = ("Weights only load failed", "Please file an issue", "Check the documentation")
    return next(
        (line for line in lines if line.strip() and not line.startswith(advice)), type(error).__name__
    )


def other_checkpoints(path: Path) -> str:
    """The intact checkpoints beside a damaged one, or of the run folder that was named, for a message."""
    run = path / "checkpoints"
    folder = run if run.is_dir() else path.parent
    intact = [str(other) for other in sorted(folder.glob("*.ckpt")) if other != path and is_intact(other)]
    return f"; intact checkpoints of the same run: {', '.join(intact)}" if intact else ""


def _check_tables(content: Any, path: Path) -> None:
    """Raise CheckpointError unless the content has the tables that every checkpoint of a run has."""
    kind = f"{path} is not a checkpoint of a recursivemix run"
    if not isinstance(content, dict):
        raise CheckpointError(f"{kind}: it holds {type(content).__name__}, not a table")
    version = content.get(FORMAT_KEY, FORMAT)
    if type(version) is not int or not 0 < version <= FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {version!r}; this version reads formats up to {FORMAT}: upgrade "
            f"recursivemix"
        )
    for name in ("state_dict", "hyper_parameters"):
        table = content.get(name)
        if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
            found = "missing" if name not in content else f"{type(table).__name__}, not a table by name"
            raise CheckpointError(f"{kind}: its {name} is {found}")
    for name, value in content["state_dict"].items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
        if not dense or value.device.type != "cpu":
            found = (
                f"{value.layout} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise CheckpointError(f"{kind}: the weight {name} must be a dense tensor, got {found}")
