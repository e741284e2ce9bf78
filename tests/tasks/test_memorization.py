"""Advice about mixing from the accuracy on training images."""

import pytest

from recursivemix.tasks.memorization import mixing_advice


@pytest.mark.parametrize(
    ("accuracy", "mixer", "words"),
    [
        (99.0, "none", "memorized, and mixing may help"),
        (99.9, "cutmix", "room for this mixing"),
        (95.0, "none", "a comparison with --mixer none"),
        (98.9, "recursivemix", "a comparison with --mixer none"),
        (94.9, "none", "train longer or use a larger one"),
        (70.0, "recursivemix", "mix less (--mixer-options.prob 0.5"),
    ],
)
def test_advice_follows_the_fit_of_the_training_images(accuracy, mixer, words):
    advice = mixing_advice(accuracy, mixer)
    assert advice.startswith(f"{accuracy:.1f} % of the training images")
    assert words in advice
    assert "\n" not in advice
