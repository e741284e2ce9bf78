"""Order of the training and evaluation images, as a pure function of (seed, epoch, step, rank).

Every random decision about the data uses a generator seeded with its purpose. The batches are therefore the
same for any number of loader workers, and a resumed run needs its step number only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHUFFLED = 10_000
"""Images that are shuffled at a time if a data set is read shard by shard."""


def seed_of(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on all parts and their order; the same in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_of(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `seed_of`."""
    return torch.Generator().manual_seed(seed_of(*parts))


@dataclass(frozen=True)
class TrainingOrder:
    """Which training images make up which batch, on which process.

    Args:
        images: size of the training set, N.
        batch_size: images per step on each process; the last step of an epoch may have fewer.
        seed: of the order.
        repeats: copies of an image in an epoch, which then has N / repeats different images (repeated
            augmentation, arXiv 1901.09335; the copies are in the same step).
        ranks: number of processes that train together. Each gets the same number of images; if N is not
            divisible, the first images of the order are used twice.
        rank: of this process.
        blocks: (N,) int64, the shard of each image, to shuffle among a few shards at a time: shards come in
            random order, and images are shuffled among consecutive shards of together about `SHUFFLED`
            images (default: shuffle all images).
        strata: indices of the images of each class, to draw as many of each class in an epoch of N images;
            an image of a rare class comes again after all others of it (default: every image once).
    """

    images: int
    batch_size: int
    seed: int
    repeats: int = 1
    ranks: int = 1
    rank: int = 0
    blocks: Tensor | None = field(default=None, compare=False)
    strata: Sequence[Tensor] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("images", "batch_size", "repeats", "ranks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"rank must be in 0..{self.ranks - 1} for ranks={self.ranks}, got {self.rank}")

    @property
    def images_a_rank(self) -> int:
        """Images per epoch on each process."""
        return -(-self.images // self.ranks)

    @property
    def steps(self) -> int:
        """Batches per epoch on each process."""
        return -(-self.images_a_rank // self.batch_size)

    def epoch(self, epoch: int) -> Tensor:
        """Return the images of one epoch on this process, in order: (images_a_rank,) int64."""
        generator = generator_of(self.seed, "order", epoch)
        order = torch.randperm(self.images, generator=generator)
        if self.strata is not None:
            order = self._as_many_of_each(self.strata, generator)[order]
        if self.blocks is not None:
            order = order[self._group_of_block(generator)[self.blocks[order]].argsort(stable=True)]
        total = self.images_a_rank * self.ranks
        order = order.repeat_interleave(self.repeats)
        order = order.repeat(-(-total // len(order)))[:total]
        return order[self.rank :: self.ranks]

    def _as_many_of_each(self, strata: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """Draw (N,) images, as many of each stratum; random strata get the remainder."""
        least, rest = divmod(self.images, len(strata))
        places = torch.randperm(len(strata), generator=generator).tolist()
        drawn = []
        for place, members in zip(places, strata, strict=True):
            count = least + (place < rest)
            rounds = [
                torch.randperm(len(members), generator=generator) for _ in range(-(-count // len(members)))
            ]
            drawn.append(members[torch.cat([*rounds, torch.empty(0, dtype=torch.long)])[:count]])
        return torch.cat(drawn)

    def _group_of_block(self, generator: torch.Generator) -> Tensor:
        """Draw the order of the blocks and return the group of each; a group is read at a time."""
        assert self.blocks is not None
        counts = torch.bincount(self.blocks)
        order = torch.randperm(len(counts), generator=generator)
        before = counts[order].cumsum(0) - counts[order]
        group = torch.empty_like(order)
        group[order] = before // SHUFFLED
        return group

    def batch(self, epoch: int, step: int) -> Tensor:
        """Return the images of one step: (B,) int64."""
        return self.epoch(epoch)[step * self.batch_size :][: self.batch_size]

    def keys(self, epoch: int, step: int, indices: Tensor) -> list[tuple[int, int]]:
        """Return each of the (B,) images of a step with the seed of its augmentation."""
        first = step * self.batch_size
        return [
            (index, seed_of(self.seed, "image", epoch, place, self.rank))
            for place, index in enumerate(indices.tolist(), start=first)
        ]

    def batch_length(self, step: int) -> int:
        """Return the number of images of a step, on each process."""
        return min(self.batch_size, self.images_a_rank - step * self.batch_size)


def evaluation_batches(images: int, batch_size: int, ranks: int = 1, rank: int = 0) -> list[Tensor]:
    """Return the batches of one process such that all processes together evaluate each image exactly once.

    Networks that communicate need the same number of batches of the same length on every process; if the
    images are not divisible, the remaining places hold -1.
    """
    share = -(-images // ranks)
    places = torch.arange(rank, share * ranks, ranks)  # (share,)
    return list(torch.split(torch.where(places < images, places, -1), batch_size))
