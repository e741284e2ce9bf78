"""What a step costs: the number of operations, no value read from a device, no compiler imported."""

import subprocess
import sys

import pytest
import torch
from test_every_mixer import make
from torch.utils._python_dispatch import TorchDispatchMode

from recursivemix import MIXERS, RecursiveMix

K = 12


class Operations(TorchDispatchMode):
    """Collect the names of the operations that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def step(mixer, images, labels):
    """Mix, take the loss, remember; what a device would have to wait for."""
    batch = mixer(images, labels, indices=torch.arange(len(images)))
    logits = torch.zeros(len(images), K, device=images.device)
    if mixer.needs_model:
        mixer.model.train()(batch.images)
    mixer.loss(logits, batch, logits if mixer.trains_regions else None)
    mixer.remember(batch, logits)


@pytest.mark.parametrize(("inplace", "most"), [(False, 18), (True, 17)])
@pytest.mark.parametrize("side", [32, 224])
def test_operations_of_a_call_and_of_remember(side, inplace, most):
    """One box per batch, class indices, with consistency; 78 and 93 in the first version."""
    mixer = RecursiveMix(K, inplace=inplace)
    labels, logits = torch.arange(4), torch.zeros(4, K)
    counts = []
    for _ in range(12):
        images = torch.rand(4, 3, side, side)
        with Operations() as operations:
            batch = mixer(images, labels)
            mixer.remember(batch, logits)
        if batch.lam[0] < 1:
            counts.append(len(operations.names))
    assert len(counts) > 6
    assert max(counts) <= most


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_a_step_reads_nothing_from_a_device(name, per_sample):
    """Tensors on "meta" hold no values: reading one, as ``item`` or ``bool`` do, is an error."""
    mixer = make(name, per_sample=per_sample)
    if mixer.needs_model:
        mixer.model.to("meta")
    for side in (8, 80):
        for _ in range(3):
            images = torch.empty(4, 3, side, side, device="meta")
            step(mixer, images, torch.empty(4, dtype=torch.long, device="meta"))


@pytest.mark.parametrize("module", ["recursivemix.mixing", "recursivemix.models.region"])
@pytest.mark.slow
def test_importing_costs_what_torch_costs(module):
    """In a fresh interpreter: nothing that ``import torch`` has not imported, above all no compiler."""
    code = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        f"import {module}\n"
        "new = {name for name in set(sys.modules) - before if not name.startswith('recursivemix')}\n"
        "heavy = {name for name in new if name.split('.')[0] not in sys.stdlib_module_names}\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
