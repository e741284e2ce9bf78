"""Thousands of requests and images: memory and open files stay where they were after the first of them."""

import json
import sys

import numpy as np
import pytest
import torch

from campaign.long_work import WORK

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
COUNTS = {"studio requests": 2000, "uploads of 36 megapixels": 20, "images through predict": 500}
WARM = 5
"""Samples before which caches and pools of memory fill."""
LEAST = 16.0
"""Growth in MiB over all of the work that is no leak: blocks that the allocator keeps."""


def growth_of(values):
    """Return by how much a line through the values rises, and the standard deviation around it."""
    values = np.array(values, float)
    steps = np.arange(len(values))
    slope, start = np.polyfit(steps, values, 1)
    return float(slope * steps[-1]), float((values - slope * steps - start).std())


def test_a_rise_is_told_from_noise():
    noise = 5 * torch.randn(15, generator=torch.Generator().manual_seed(0)).numpy()
    for slope in (0.0, 3.0):
        growth, deviation = growth_of(100 + slope * np.arange(15) + noise)
        assert growth == pytest.approx(14 * slope, abs=15)
        assert 2 < deviation < 8


@pytest.mark.parametrize("kind", WORK)
def test_memory_and_files_are_flat(kind, server, tmp_path, tries, recorded):
    if tries < 1000:
        pytest.skip("a part of make campaign")
    result, log = tmp_path / "samples.json", tmp_path / "log"
    code = server.run([kind, COUNTS[kind], result], log, module="campaign.long_work")
    assert code == 0, log.read_text()[-3000:]
    memory, files = zip(*json.loads(result.read_text())[WARM:], strict=True)
    growth, deviation = growth_of(memory)
    assert growth < max(LEAST, 2 * deviation), memory
    assert files[-1] <= files[0], files
    recorded(
        kind, COUNTS[kind], COUNTS[kind], memory_mib=[round(memory[0]), round(memory[-1])],
        growth_mib=round(growth, 1), deviation_mib=round(deviation, 1), files=[files[0], files[-1]],
    )  # fmt: skip
