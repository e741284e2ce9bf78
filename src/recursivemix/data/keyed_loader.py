"""Loads the items of a data set by key, in worker processes that live from epoch to epoch."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")
Key = tuple[int, int]
"""Index of an image and the seed of its augmentation; index -1 is an empty place."""


def shared_bytes(*shape: int) -> Tensor:
    """Return uint8 of a shape that loader workers write and this process reads; make it before they start.

    Forked workers inherit it; for others torch shares it when it is sent to the first one. It is not in
    /dev/shm, which containers limit to 64 MB, and takes no memory before it is written.
    """
    memory = mmap.mmap(-1, math.prod(shape))
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)


class KeySampler:
    """Batch sampler of the loader: the keys of the next iteration."""

    def __init__(self) -> None:
        self.keys: Iterable[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)


class KeyedLoader(Generic[Item]):
    """Loads the items of a data set by batches of keys, in loader workers; 0 loads in this process.

    The options are further arguments of `DataLoader`.
    """

    def __init__(self, items: Dataset[Item], workers: int, **options: Any) -> None:
        self.sampler = KeySampler()
        self.loader: DataLoader[Item] = DataLoader(
            items,
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            # A separate generator: the global one belongs to the network.
            generator=torch.Generator(),
            worker_init_fn=start_worker,
            **options,
        )
        # Before multiprocessing kills them at exit, which leaves their folders for temporary files.
        weakref.finalize(self, _end_workers, self.loader)

    def load(self, keys: Iterable[Any]) -> Iterator[Any]:
        """Iterate over the batches, in the order of the keys.

        Args:
            keys: a list of keys for each batch, or what the data set's ``__getitems__`` takes.
        """
        self.sampler.keys = keys
        return iter(self.loader)


def _end_workers(loader: DataLoader[Any]) -> None:
    loader._iterator = None


def start_worker(worker: int) -> None:
    """End if the parent was killed before this call, and be silent when it is killed later.

    torch's worker asks every five seconds whether the number of its parent has changed since the worker
    was ready. If the parent is killed before that, the worker waits for it forever.
    """
    parent = multiprocessing.parent_process()
    forked = multiprocessing.get_start_method() == "fork"  # else the parent may be a server
    if parent is not None and forked and os.getppid() != parent.pid:
        os._exit(1)
    sys.excepthook = print_unless_disconnected


def print_unless_disconnected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error, unless another process has gone away: the thread that hands over images tells so."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
