"""Tell from a network's accuracy on its training images whether mixing is likely to help."""

from __future__ import annotations

MEMORIZED = 99.0
"""Accuracy on unmixed training images, in percent, from which a network has memorized them."""
UNDERFIT = 95.0
"""Below this the network has not fit its training images."""


def mixing_advice(train_accuracy: float, mixer: str) -> str:
    """Return what the fit of the training images suggests about mixing; see docs/guides/when.md.

    Args:
        train_accuracy: accuracy on unmixed training images at the end of training, in percent.
        mixer: mixing method of the run.
    """
    seen = f"{train_accuracy:.1f} % of the training images are predicted without mixing"
    if train_accuracy >= MEMORIZED:
        if mixer == "none":
            return f"{seen}: they are memorized, and mixing may help (--mixer cutmix or recursivemix)"
        return f"{seen}: the network has room for this mixing"
    if train_accuracy >= UNDERFIT:
        return f"{seen}: nearly memorized; a comparison with --mixer none tells whether mixing helps here"
    if mixer == "none":
        return f"{seen}: the network underfits; train longer or use a larger one before mixing"
    return (
        f"{seen}: the network underfits; mix less (--mixer-options.prob 0.5, --mix-stop), train longer, "
        f"or use a larger network"
    )
