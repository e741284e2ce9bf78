"""A checkpoint for the tests of pictures."""

import pytest
from by_hand import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "one" / "checkpoints" / "last.ckpt", mixer="recursivemix")
