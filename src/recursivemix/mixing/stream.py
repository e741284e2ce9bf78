"""A seeded random stream that can be saved and resumed: what a mixer and dense mixing draw from."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from .checks import whole_number
from .draw import random_integer

log = logging.getLogger(__name__)


class Stream:
    """A `torch.Generator` on the CPU, seeded by (seed, rank).

    The generator is made at first use: a process often learns its rank after it has built its mixer. In a
    worker of a data loader it is seeded by torch's seed of the worker too; otherwise all workers would draw
    the same, again in every epoch.

    Args:
        seed: Seed of the stream.
        rank: Rank of this process, part of the seed. None asks torch.distributed, then the launcher's
            ``RANK`` variable.
        sync_ranks: Give every rank the stream of rank 0.
    """

    def __init__(self, seed: int = 0, rank: int | None = None, sync_ranks: bool = False) -> None:
        self.seed = whole_number("seed", seed)
        self.fixed_rank = None if rank is None else whole_number("rank", rank, 0)
        self.sync_ranks = sync_ranks
        self._generators: dict[int, torch.Generator] = {}  # by the seed of the worker; 0 outside of one

    @property
    def rank(self) -> int:
        """The rank whose stream this is: 0 for every process with ``sync_ranks``."""
        if self.sync_ranks:
            return 0
        return process_rank() if self.fixed_rank is None else self.fixed_rank

    @property
    def generator(self) -> torch.Generator:
        """The generator to draw from; every draw advances the stream."""
        worker = torch.utils.data.get_worker_info()
        worker_seed = 0 if worker is None else worker.seed
        if worker_seed not in self._generators:
            self._generators[worker_seed] = seeded_generator(self.seed + worker_seed, self.rank)
        return self._generators[worker_seed]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and the rank it belongs to."""
        return {"generator": self.generator.get_state(), "rank": self.rank}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Frameworks that save the state of the first process alone hand it to every process. The state of
        another rank gives this rank a stream of its own that follows from it.
        """
        self.generator.set_state(state["generator"].cpu())
        if not self.is_of_this_rank(state):
            log.warning(
                "The mixer's state is of rank %d, this is rank %d: no history is restored. Save one state "
                "per process to resume exactly.",
                state["rank"],
                self.rank,
            )
            seed = int(random_integer(2**62, self.generator))
            self.generator.set_state(seeded_generator(seed, self.rank).get_state())

    def is_of_this_rank(self, state: dict[str, Any]) -> bool:
        """Return whether a state was saved by this rank."""
        return bool(state["rank"] == self.rank)


def seeded_generator(seed: int, rank: int) -> torch.Generator:
    """Return a CPU generator whose stream depends on both numbers; rank 0 has the plain seed."""
    # The golden-ratio step keeps (seed, rank) and (seed + 1, rank - 1) apart.
    return torch.Generator().manual_seed((seed + rank * 0x9E3779B97F4A7C15) % 2**63)


def process_rank() -> int:
    """Return this process's rank: from torch.distributed if it is initialized, else ``RANK``, else 0."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return int(os.environ.get("RANK", "0"))
