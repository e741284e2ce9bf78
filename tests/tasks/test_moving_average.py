"""Detection and segmentation runs keep the moving average that classification runs keep."""

import pytest
import torch
from lightning import Callback

from recursivemix.models.trained import load
from recursivemix.tasks.settings import DetectionSettings, SegmentationSettings
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare

DECAY = 0.6
STEPS = 3


class Weights(Callback):
    """Keep the network's weights after every step, and those that are evaluated."""

    def __init__(self):
        self.steps = []
        self.evaluated = {}

    def on_train_batch_end(self, trainer, module, *rest):
        self.steps.append({k: v.clone() for k, v in module.network.state_dict().items()})

    def on_validation_batch_start(self, trainer, module, *rest):
        self.evaluated = {k: v.clone() for k, v in module.network.state_dict().items()}


@pytest.mark.parametrize("kind", [DetectionSettings, SegmentationSettings])
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
def test_the_average_is_evaluated_and_saved(kind, tmp_path):
    settings = kind(
        epochs=1, batch_size=2, channels=16, device="cpu", precision="32", ema_decay=DECAY, lr=0.01,
        mixer="recursivemix", out=tmp_path / "run",
    )  # fmt: skip
    limits = {"limit_train_batches": STEPS, "limit_val_batches": 1, "enable_progress_bar": False}
    weights = Weights()
    fit(prepare(settings, [weights], limits))
    assert len(weights.steps) == STEPS
    steps = [{k: v for k, v in step.items() if v.is_floating_point()} for step in weights.steps]
    average = steps[0]  # it starts as a copy of the first weights
    for step in steps[1:]:
        average = {k: DECAY * average[k] + (1 - DECAY) * v for k, v in step.items()}
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    loaded = load(tmp_path / "run" / "checkpoints" / "last.ckpt").network.state_dict()
    differ = 0
    for name, value in average.items():
        torch.testing.assert_close(saved["state_dict"][f"network.{name}"], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loaded[name], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights.evaluated[name], value, rtol=1e-5, atol=1e-6)
        differ += not torch.equal(value, steps[-1][name])
    assert differ > 10  # not the weights of the last step
