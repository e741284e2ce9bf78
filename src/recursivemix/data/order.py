"""In which order images come: a pure function of (seed, epoch, step, rank), with nothing to be saved.

Every random decision about data comes from a generator that is seeded by what it is for. Any number of
loader processes then gives the same batches, and a resumed run needs to know its step alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and on their order; never Python's salted hash."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_of(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_of`."""
    return torch.Generator().manual_seed(seed_of(*parts))


@dataclass(frozen=True)
class TrainingOrder:
    """Which training images make which batch, on which process.

    Args:
        images: N, the size of the training set.
        batch_size: images a step, on each process; the last step of an epoch may have fewer.
        seed: of the order.
        repeats: how many times an image stands in an epoch that then holds N / repeats different ones
            (repeated augmentation, arXiv 1901.09335; the copies of an image share a step).
        ranks: processes that train together; all of them get equally many images, the first of the order a
            second time where N does not divide.
        rank: of this process.
    """

    images: int
    batch_size: int
    seed: int
    repeats: int = 1
    ranks: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "batch_size", "repeats", "ranks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"rank must be in 0..{self.ranks - 1} for ranks={self.ranks}, got {self.rank}")

    @property
    def images_a_rank(self) -> int:
        """Images in an epoch of each process."""
        return -(-self.images // self.ranks)

    @property
    def steps(self) -> int:
        """Batches in an epoch of each process."""
        return -(-self.images_a_rank // self.batch_size)

    def epoch(self, epoch: int) -> Tensor:
        """(images_a_rank,) int64: this process's images of one epoch, in order."""
        order = torch.randperm(self.images, generator=generator_of(self.seed, "order", epoch))
        total = self.images_a_rank * self.ranks
        order = order.repeat_interleave(self.repeats)
        order = order.repeat(-(-total // len(order)))[:total]
        return order[self.rank :: self.ranks]

    def batch(self, epoch: int, step: int) -> Tensor:
        """(B,) int64: the images of one step."""
        return self.epoch(epoch)[step * self.batch_size :][: self.batch_size]

    def batch_length(self, step: int) -> int:
        """How many images a step has, on each process."""
        return min(self.batch_size, self.images_a_rank - step * self.batch_size)


def evaluation_batches(images: int, batch_size: int, ranks: int = 1, rank: int = 0) -> list[Tensor]:
    """The batches of one process that measures its share of ``images`` images, each image exactly once.

    Every process gets equally many batches of equal length, since networks that talk to one another need
    that; where the set does not divide, the places left over hold -1.
    """
    share = -(-images // ranks)
    places = torch.arange(rank, share * ranks, ranks)  # (share,)
    return list(torch.split(torch.where(places < images, places, -1), batch_size))
