"""A short run that the tests of this folder share."""

import pytest

from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The result of a short run, with the score and loss that Lightning measured at its end."""
    settings = ClassificationSettings(
        epochs=1, precision="32", out=tmp_path_factory.mktemp("evaluated") / "run"
    )
    return fit(prepare(settings, [], {"limit_train_batches": 2, "enable_progress_bar": False}))


@pytest.fixture(scope="session")
def checkpoint(trained):
    return trained.folder / "checkpoints" / "last.ckpt"
