"""Plain DistributedDataParallel, two gloo processes on the CPU: no unused parameter, no shared draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recursivemix.mixing import RecursiveMix
from recursivemix.models.region import RegionModel

WORLD, CLASSES, SIZE = 2, 4, (12, 20)
EPOCHS, STEPS = 2, 3


def small_backbone() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def train(rank: int, folder: str, sync_ranks: bool) -> None:
    """One process: the loop of the README under DDP; leaves draws, losses and weights of every rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    torch.manual_seed(rank)  # ranks begin with other weights: DDP hands out those of rank 0
    model = DistributedDataParallel(RegionModel(small_backbone(), image_size=SIZE))
    mixer = RecursiveMix.paper(CLASSES, sync_ranks=sync_ranks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    draws, lams, unused = [], [], []
    for epoch in range(EPOCHS):
        mixer.start_epoch()
        for step in range(STEPS):
            labels = torch.arange(3) % CLASSES
            images = torch.randn(3, 3, *SIZE) + epoch + step
            batch = mixer(images, labels)
            logits, region_logits = model(batch.images, batch.boxes)
            optimizer.zero_grad()
            mixer.loss(logits, batch, region_logits).backward()
            unused += [name for name, p in model.named_parameters() if p.grad is None]
            optimizer.step()
            mixer.remember(batch, logits)
            draws.append(batch.draw.boxes.tolist())
            lams.append(batch.lam.tolist())
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    gathered = [torch.empty_like(weights) for _ in range(WORLD)]
    dist.all_gather(gathered, weights)
    drawn: list[list[list[list[int]]] | None] = [None] * WORLD
    dist.all_gather_object(drawn, draws)
    report = {
        "draws": drawn,
        "lams": lams,
        "unused": unused,
        "equal": torch.equal(*gathered),
        "finite": bool(weights.isfinite().all()),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


@pytest.mark.parametrize("sync_ranks", [False, True])
@pytest.mark.slow
def test_plain_ddp(run_ranks, tmp_path, sync_ranks):
    """Epochs begin without a history, yet the region head is in every step's graph."""
    run_ranks(train, WORLD, str(tmp_path), sync_ranks)
    for rank in range(WORLD):
        report = json.loads((tmp_path / f"{rank}.json").read_text())
        assert report["equal"]
        assert report["finite"]
        assert report["unused"] == []
        assert len(report["draws"][0]) == EPOCHS * STEPS
        assert (report["draws"][0] == report["draws"][1]) is sync_ranks
        # The first step of each epoch has nothing to paste; later ones have.
        first = [lam for i, lam in enumerate(report["lams"]) if i % STEPS == 0]
        later = [lam for i, lam in enumerate(report["lams"]) if i % STEPS]
        assert first == [[1.0] * 3] * EPOCHS
        assert sum(min(lam) < 1 for lam in later) >= 2
