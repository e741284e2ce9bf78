"""Random decisions of an attack, from a seed of its own."""

import torch


class Decisions:
    """Random decisions of one attack."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def below(self, limit):
        return int(torch.randint(limit, (), generator=self.generator))

    def chance(self, share):
        return float(torch.rand((), generator=self.generator)) < share

    def of(self, values):
        return values[self.below(len(values))]

    def bytes(self, count):
        return bytes(torch.randint(256, (count,), generator=self.generator).tolist())
