"""Mutated images, tables, shards and packs: read, refused in one line that names the file, or left out.

A failure names the number of its attack: ``CAMPAIGN_SEED=<number> CAMPAIGN_TRIES=1`` repeats it alone.
"""

import json
import sys

import pytest

from campaign.mutated_files import KINDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files(kind, server, tries, seed, tmp_path, recorded):
    count = tries if tries >= 1000 or tries == 1 else max(1, tries // 5)
    result, log = tmp_path / "result.json", tmp_path / "log"
    words = [kind, tmp_path, seed, count, result]
    code = server.run(words, log, module="campaign.broken_files")
    assert code == 0, log.read_text()[-3000:]
    found = json.loads(result.read_text())
    assert not found["failures"], "\n".join(found["failures"])
    assert sum(found["seen"].values()) == 2 * count
    if count >= 1000:
        assert {"read", "refused", "left out"} == found["seen"].keys()  # the attacks reach all three
    recorded(f"broken {kind} files", count, count)
