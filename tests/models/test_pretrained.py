"""Weights of files, and what the files state about them."""

import pytest

from recursivemix.models.pretrained import _stated

ABOUT = {"input_size": "[3, 96, 96]", "mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.3, 0.2]", "resize": "110"}


def test_the_preprocessing_of_an_export_is_read():
    stated = _stated(ABOUT)
    assert (stated.size, stated.mean, stated.resize) == (96, (0.4, 0.5, 0.6), 110)


@pytest.mark.parametrize(
    "changed",
    [
        {"input_size": "[]"},
        {"input_size": "[Infinity]"},
        {"input_size": "96"},
        {"mean": "[0.4]"},
        {"std": "[0.2, 0.0, 0.2]"},
        {"resize": "1e999"},
        {"interpolation": '"lanczos"'},
    ],
)
def test_a_preprocessing_that_cannot_be_is_none(changed):
    assert _stated(ABOUT | changed) is None
