"""Two gloo processes: every test image counts once, each rank draws its own, a stopped run goes on."""

import json
import os
import socket
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from test_resume import config, same
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from recursivemix.data.order import TrainingOrder, evaluation_batches
from recursivemix.models.create import create_model
from recursivemix.models.region import RegionModel
from recursivemix.tasks.frozen_part import FrozenPart
from recursivemix.training.prepare import prepare
from recursivemix.training.synced_norms import SyncedNorms
from recursivemix.training.trainer import quiet_lightning
from samples import write_images

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / "tests"), str(ROOT / "tests" / "training")]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(python: str, arguments: list[str], processes: int, port: str) -> list[subprocess.Popen]:
    """As torchrun starts them: one process a rank, told by the environment."""
    started = []
    for rank in range(processes):
        environment = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
            "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
        started.append(
            subprocess.Popen(
                [python, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(processes: list[subprocess.Popen]) -> list[int]:
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        print(f"--- exit {process.returncode}\n{output[-3000:]}")
    return [process.returncode for process in processes]


@pytest.fixture
def data(tmp_path):
    """Three classes; 13 test images, which two processes can't share evenly."""
    root = tmp_path / "data"
    for hue, (name, held_out) in enumerate({"blue": 5, "green": 4, "red": 4}.items()):
        write_images(root / "train" / name, 12, hue=hue)
        write_images(root / "val" / name, held_out, hue=hue)
    return root


def test_an_odd_test_set_counts_every_image_once(python, data, tmp_path):
    """One process against two, on the same weights: the same accuracy to the last digit."""
    code = f"""
import sys, json; sys.path[:0] = {PATHS!r}
from pathlib import Path
from test_resume import config
from recursivemix.training.prepare import prepare
from recursivemix.training.trainer import quiet_lightning
import torch
devices = int(sys.argv[1])
run = prepare(config(Path({str(data)!r}), Path(sys.argv[2]), devices=devices, batch_size=3), [], {{}})
run.loaders.loading.fill_cache()
with quiet_lightning():
    metrics = run.trainer.validate(run.learner, datamodule=run.loaders, verbose=False)
if run.trainer.is_global_zero:
    values = {{k: v.hex() for m in metrics for k, v in m.items()}}
    Path(sys.argv[2] + ".json").write_text(json.dumps(values))
"""
    results = []
    for devices in (1, 2):
        out = str(tmp_path / f"by-{devices}")
        assert (
            finish(launch(python, ["-c", code, str(devices), out], devices, free_port())) == [0] * devices
        )
        results.append(json.loads(Path(f"{out}.json").read_text()))
    images = len(list((data / "val").rglob("*.png")))
    assert images % 2 == 1
    assert results[0]["acc1"] == results[1]["acc1"]
    losses = [float.fromhex(result["val_loss"]) for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # other batches, so other sums
    hits = float.fromhex(results[0]["acc1"]) / 100 * images
    assert hits == pytest.approx(round(hits), abs=1e-4)


@pytest.mark.parametrize("images", [1, 2, 7, 8, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_batches_hold_each_image_once(images, ranks):
    shares = [evaluation_batches(images, 3, ranks, rank) for rank in range(ranks)]
    assert len({tuple(len(batch) for batch in share) for share in shares}) == 1
    seen = sorted(int(i) for share in shares for batch in share for i in batch if i >= 0)
    assert seen == list(range(images))


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_an_epoch(ranks, repeats):
    orders = [TrainingOrder(20, 4, 7, repeats, ranks, rank) for rank in range(ranks)]
    epochs = [order.epoch(2) for order in orders]
    assert len({len(epoch) for epoch in epochs}) == 1
    assert {order.steps for order in orders} == {orders[0].steps}
    together = torch.stack(epochs, 1).flatten().tolist()
    if repeats == 1:
        assert sorted(set(together)) == list(range(20))
        assert len(together) - 20 < ranks
    else:
        assert all(together[i] == together[i + 1] for i in range(0, 18, 3))
    assert epochs[0].tolist() != orders[0].epoch(3).tolist()
    for order, epoch in zip(orders, epochs, strict=True):
        steps = [order.batch(2, step) for step in range(order.steps)]
        assert torch.equal(torch.cat(steps), epoch)
        assert [len(step) for step in steps] == [order.batch_length(i) for i in range(order.steps)]


TRAIN = f"""
import sys; sys.path[:0] = {PATHS!r}
import signal
from pathlib import Path
from test_resume import Signalled, config
from recursivemix.training.checkpoints import StoppedError
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
import json, os
data, out, stop, resume = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "resume"
settings = dict(devices=2, batch_size=3, grad_accum_steps=2) | json.loads(sys.argv[5])
only_the_second = int(os.environ["RANK"]) == 1
run = prepare(
    config(data, out, **settings),
    [Signalled(stop)] if stop and only_the_second else [],
    {{}},
    resume=out / "checkpoints" / "last.ckpt" if resume else None,
)
try:
    fit(run)
except StoppedError:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    "settings",
    [{"ema_decay": 0.9}, {"average_last": 2, "freeze": "backbone", "unfreeze_epoch": 1}],
    ids=["ema", "frozen"],
)
def test_two_processes_stop_together_and_go_on(python, data, tmp_path, settings):
    """The signal reaches one process; both stop at the same step, and the resumed run ends the same."""

    def train(out, stop=0, resume="no"):
        arguments = ["-c", TRAIN, str(data), str(tmp_path / out), str(stop), resume, json.dumps(settings)]
        return finish(launch(python, arguments, 2, free_port()))

    assert train("whole") == [0, 0]
    assert train("parts", stop=9) == [130, 130]
    assert train("parts", resume="resume") == [0, 0]
    last = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "parts")
    ]
    same(*last)
    states = last[0]["ranks"]
    assert len(states) == 2
    assert not torch.equal(states[0]["mixer"]["generator"], states[1]["mixer"]["generator"])
    assert not torch.equal(states[0]["rng"], states[1]["rng"])
    assert last[1]["callbacks"]["EpochLog"]["resumed_at"]


FULL_DISK = f"""
import sys; sys.path[:0] = {PATHS!r}
import os, resource, signal
from pathlib import Path
from test_resume import config
from recursivemix.models.checkpoint_file import CheckpointError
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
run = prepare(config(Path(sys.argv[1]), Path(sys.argv[2]), devices=2), [], {{}})
if os.environ["RANK"] == "0":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    fit(run)
except CheckpointError as error:
    assert "cannot write the checkpoint" in str(error)
    sys.exit(9)
"""


def test_a_full_disk_of_one_process_ends_both(python, data, tmp_path):
    launched = launch(python, ["-c", FULL_DISK, str(data), str(tmp_path / "run")], 2, free_port())
    assert finish(launched) == [9, 9]


BAD = f"""
import sys; sys.path[:0] = {PATHS!r}
import os, torch
from pathlib import Path
from lightning import Callback
from test_resume import config
from recursivemix.training.checkpoints import NonFiniteLossError
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
class Poison(Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if os.environ["RANK"] == "1" and trainer.global_step == 2:
            batch[0].fill_(torch.nan)
settings = config(Path(sys.argv[1]), Path(sys.argv[2]), devices=2, batch_size=3, mixer="none")
run = prepare(settings, [Poison()], {{}})
try:
    fit(run)
except NonFiniteLossError as error:
    for rank in (0, 1):
        names = [run.data.train.name(i) for i in run.learner.order(rank).batch(0, 2).tolist()]
        assert all((name in str(error)) == (rank == 1) for name in names), error
    sys.exit(8)
"""


def test_the_images_of_the_process_whose_loss_is_bad_are_named(python, data, tmp_path):
    launched = launch(python, ["-c", BAD, str(data), str(tmp_path / "run")], 2, free_port())
    assert finish(launched) == [8, 8]


LOST = f"""
import sys; sys.path[:0] = {PATHS!r}
import os
from pathlib import Path
from lightning import Callback
from test_resume import config
from recursivemix.cli.errors import Failed
from recursivemix.cli.running import train
class Killed(Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if os.environ["RANK"] == "1" and trainer.global_step == 2:
            os._exit(7)
out = Path(sys.argv[2])
try:
    train(config(Path(sys.argv[1]), out, devices=2, checkpoint_every=1), {{}}, None, False, Killed())
except Failed as error:
    assert str(error).startswith("another process of the run has ended ("), error
    assert str(error).endswith(f"; resume with: recursivemix fit --resume {{out}}"), error
    os._exit(6)
"""


def test_the_loss_of_a_process_is_one_line_that_says_how_to_resume(python, data, tmp_path):
    launched = launch(python, ["-c", LOST, str(data), str(tmp_path / "run")], 2, free_port())
    assert finish(launched) == [6, 7]


def test_the_command_line_with_two_devices(python, data, tmp_path):
    """``--devices 2`` starts its own second process."""
    command = [
        python, "-m", "recursivemix.cli", "fit", "--data", str(data),
        "--out", str(tmp_path / "run"), "--devices", "2", "--device", "cpu",
        "--epochs", "1", "--batch-size", "4", "--workers", "0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["data"]["evaluation_images"] == len(list((data / "val").rglob("*.png")))
    assert done.stdout.count("accuracy, last epoch") == 1


def sharded(file: str) -> None:
    """One process of `test_fully_sharded_regions_train_as_whole_ones`."""
    torch.distributed.init_process_group("gloo")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    model, mixer, batches = training_parts()
    fully_shard(model.backbone.layer3, mesh=mesh)
    fully_shard(model, mesh=mesh)
    losses = train_parts(model, mixer, batches)
    parts = model.state_dict().items()  # buffers are not sharded
    state = {name: value.full_tensor() for name, value in parts if hasattr(value, "full_tensor")}
    if torch.distributed.get_rank() == 0:
        torch.save({"losses": losses, "state": state}, file)
    torch.distributed.destroy_process_group()


def training_parts():
    from recursivemix import RecursiveMix, RegionModel
    from recursivemix.models.create import create_model

    torch.manual_seed(0)
    model = RegionModel(create_model("resnet20", 5, 32), image_size=(32, 32))
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(4, 3, 32, 32, generator=generator), torch.randint(5, (4,), generator=generator))
        for _ in range(4)
    ]
    return model, RecursiveMix(5, rank=0), batches


def train_parts(model, mixer, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for images, labels in batches:
        batch = mixer(images, labels)
        logits, region_logits = model(batch.images, batch.boxes)
        loss = mixer.loss(logits, batch, region_logits)
        mixer.remember(batch, logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.filterwarnings("ignore:.*")
def test_fully_sharded_regions_train_as_whole_ones(python, tmp_path):
    """FSDP over two processes that get the same batches: losses and weights of one unsharded process."""
    file = str(tmp_path / "sharded.pt")
    code = f"import sys; sys.path[:0] = {PATHS!r}; from test_devices import sharded; sharded({file!r})"
    assert finish(launch(python, ["-c", code], 2, free_port())) == [0, 0]
    found = torch.load(file, weights_only=True)
    model, mixer, batches = training_parts()
    losses = train_parts(model, mixer, batches)
    assert found["losses"] == pytest.approx(losses, rel=1e-4)
    whole = model.state_dict()
    assert "region_head.weight" in found["state"]
    for name, value in found["state"].items():
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["test_efficientnet", "densenet121", "test_resnet"])
def test_synchronized_layers_keep_activation_hooks_and_freezing(name):
    """Lightning's own conversion drops the activation of timm's layers that normalize and activate."""
    network = RegionModel(create_model(name, 3, 64), image_size=(64, 64)).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0, 0, 32, 32], [16, 16, 64, 64]])
    before = [output.detach() for output in network(images, boxes)]
    frozen = FrozenPart(network.backbone, "backbone", None)
    kinds, names = [type(module) for module in network.modules()], list(network.state_dict())
    synced = SyncedNorms()
    assert synced.apply(network) is network
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(isinstance(module, nn.SyncBatchNorm) for module in norms)
    assert all(torch.equal(a, b) for a, b in zip(network(images, boxes), before, strict=True))
    network.train()
    frozen.start_epoch(0, 1)
    assert not any(module.training for module in norms)
    assert list(network.state_dict()) == names
    assert synced.revert(network) is network
    assert [type(module) for module in network.modules()] == kinds
    assert all(torch.equal(a, b) for a, b in zip(network.eval()(images, boxes), before, strict=True))


def test_runs_synchronize_by_it(data, tmp_path):
    settings = config(data, tmp_path / "run", sync_batchnorm=True, device="auto")
    trainer = prepare(settings, [], {"strategy": "ddp"}).trainer
    assert isinstance(trainer.strategy._layer_sync, SyncedNorms)


def test_what_users_cannot_mend_is_not_shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with quiet_lightning():
            warnings.warn("Grad strides do not match bucket view strides. This may indicate", stacklevel=1)
            warnings.warn("another warning", stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["another warning"]
