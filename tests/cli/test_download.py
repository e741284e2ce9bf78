"""``--download`` against a hub on this machine: timm's weights, a data set; then both without a network."""

import json
import os
import subprocess
import sys

import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from local_hub import serve
from samples import FAST

MODEL = "test_resnet"
"""timm's smallest network with weights on the hub."""
RUN = """
import sys, json
from recursivemix.cli import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    print("exit code", code, flush=True)
"""


def run(home, endpoint, *commands):
    """Run commands in a process that finds the hub at an address; return its output."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    commands = json.dumps([[str(word) for word in words] for words in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN, commands],
        env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture
def hub_root(tmp_path):
    """A hub with the weights of a small network and a data set of two classes."""
    datasets = pytest.importorskip("datasets")
    weights = tmp_path / "hub" / timm.get_pretrained_cfg(MODEL).hf_hub_id / "model.safetensors"
    weights.parent.mkdir(parents=True)
    save_file(timm.create_model(MODEL).state_dict(), weights)
    images = tmp_path / "hub" / "datasets" / "owner" / "photographs" / "data"
    images.mkdir(parents=True)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])}
    for split, count in (("train", 24), ("test", 6)):
        pixels = [Image.new("RGB", (32, 32), (200 * (i % 2), i, 0)) for i in range(count)]
        rows = {"image": pixels, "label": [i % 2 for i in range(count)]}
        part = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        part.to_parquet(images / f"{split}-00000-of-00001.parquet")
    return tmp_path / "hub"


def test_weights_and_data_are_fetched_once(hub_root, image_root, tmp_path):
    short = [*FAST, "--epochs", "1", "--image-size", "32", "--model", MODEL]
    folder = ["fit", "--recipe", "finetune", "--data", image_root, *short]
    hosted = ["fit", "--dataset", "hf", "--data", "owner/photographs", *short]
    with serve(hub_root) as hub:
        fetched = run(
            tmp_path,
            hub.address,
            [*folder, "--out", "not-asked"],
            [*hosted, "--out", "not-asked"],
            [*folder, "--out", "a", "--download"],
            [*hosted, "--out", "b", "--download"],
        )
        assert [line for line in fetched.splitlines() if line.startswith("exit code")] == [
            *["exit code 2"] * 2,
            *["exit code 0"] * 2,
        ], fetched
        assert fetched.count("--download") == 2
        assert not (tmp_path / "not-asked").exists()
        assert "90 of 90 keys match" in fetched
        asked = [path for path in hub.requests if path.endswith((".safetensors", ".parquet"))]
        assert len(set(asked)) == 3
    # The hub is gone.
    again = run(tmp_path, hub.address, [*folder, "--out", "c"], [*hosted, "--out", "d"])
    assert again.count("exit code 0") == 2, again
    records = [json.loads((tmp_path / name / "record.json").read_text()) for name in "abcd"]
    assert records[0]["epochs"][0]["loss_label"] == records[2]["epochs"][0]["loss_label"]
    assert records[1]["epochs"][0]["loss_label"] == records[3]["epochs"][0]["loss_label"]
