"""Devices, processes and numeric precision of a run."""

from __future__ import annotations

import os
import sys
from typing import Literal

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from .settings import Device, Precision

LightningPrecision = Literal["bf16-mixed", "16-mixed", "32-true"]
PRECISIONS: dict[Precision, LightningPrecision] = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}


def check_device(device: Device) -> None:
    """Raise ValueError if a GPU is requested and there is none."""
    if device == "gpu" and not torch.cuda.is_available():
        raise ValueError("--device gpu: torch sees no GPU on this machine; use --device cpu")


def device_type(device: Device) -> Literal["cuda", "cpu"]:
    """Return torch's name of the kind of device that is used."""
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def lightning_precision(precision: Precision, device: Device) -> LightningPrecision:
    """Return Lightning's name of a precision; "auto" is bfloat16 where the hardware multiplies in it."""
    if precision != "auto":
        return PRECISIONS[precision]
    if has_bf16(device):
        return "bf16-mixed"
    return "16-mixed" if device_type(device) == "cuda" else "32-true"


def has_bf16(device: Device) -> bool:
    """Return whether the hardware multiplies in bfloat16."""
    if device_type(device) == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def precision_notes(precision: Precision, device: Device) -> list[str]:
    """Return a line if the hardware is slow at the precision."""
    if precision != "bf16" or has_bf16(device):
        return []
    hardware = "this GPU" if device_type(device) == "cuda" else "this processor"
    return [
        f"--precision bf16: {hardware} has no bfloat16 instructions, so that steps take several times as "
        f"long as with --precision auto"
    ]


def launched_devices() -> int:
    """Return the number of processes that torchrun or srun started on this machine; 1 without them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", "1")))


def launched_processes() -> int:
    """Return the number of processes that torchrun or srun started in total; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))


def launched_rank() -> int:
    """Return the rank that the launcher gave this process, before a process group exists."""
    return int(getattr(rank_zero_only, "rank", 0))


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether gloo or NCCL reports that it cannot reach another process of the run."""
    return "gloo/transport" in str(error) or "NCCL" in str(error)


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of the GPU, else of this process; None where it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes on macOS, KiB elsewhere
