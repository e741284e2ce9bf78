"""Compare a library's own network with the trained one: keys, shapes and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recursivemix.data.printable import one_line
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.weight_keys import Keys, compare_keys

from .packages import package
from .reference import TOLERANCE, Reference, logits_of


@dataclass(frozen=True)
class Twin:
    """A library's network, with every trained weight that it can load."""

    library: str
    name: str
    """The library's name of the network."""
    arguments: dict[str, Any]
    """Arguments of the library's call besides name and number of classes."""
    network: nn.Module
    weights: dict[str, Tensor]
    """The trained weights under the library's keys."""
    keys: Keys
    difference: float | None
    """Largest absolute difference of a logit; None if a key does not match or the network cannot run."""
    failure: str
    """Why it cannot run on images of this size; empty if it can."""
    same: bool
    """Whether keys, shapes and logits are equal."""

    @property
    def loadable(self) -> dict[str, Tensor]:
        """The weights whose keys and shapes match the library's."""
        return {key: self.weights[key] for key in self.keys.matched}


def make_twin(
    reference: Reference,
    library: str,
    name: str,
    network: nn.Module,
    weights: dict[str, Tensor],
    arguments: dict[str, Any] | None = None,
) -> Twin:
    """Load the trained weights into a library's network, and compare.

    Args:
        reference: the trained classifier.
        library: name of the library, for messages.
        name: the library's name of the network.
        network: the library's network; its weights are replaced.
        weights: the trained weights, renamed to the library's keys where possible.
        arguments: arguments that the network was created with, besides name and number of classes.
    """
    network.eval()
    keys = compare_keys(weights, network.state_dict())
    network.load_state_dict({key: weights[key] for key in keys.matched}, strict=False)
    difference, failure = None, ""
    if keys.same:
        try:
            difference = reference.difference(logits_of(network, reference.images))
        except (RuntimeError, ValueError, AssertionError) as error:
            failure = one_line(error)
    same = difference is not None and reference.agrees(difference)
    return Twin(library, name, arguments or {}, network, weights, keys, difference, failure, same)


def require_same(twin: Twin, reference: Reference, allow_mismatch: bool) -> None:
    """Raise unless the library's network equals the trained one, or a mismatch is allowed.

    Raises:
        ValueError: they differ, and no mismatch is allowed or nothing matches; the message says where they
            differ and what to do.
    """
    if twin.same or (allow_mismatch and twin.keys.matched):
        return
    if not twin.keys.same:
        difference = f"{twin.keys}"
    elif twin.difference is None:
        difference = f"all keys match, but it cannot run on these images: {twin.failure}"
    else:
        difference = (
            f"all {len(twin.keys.matched)} keys match, but its logits differ by {twin.difference:.2g} (the "
            f"largest is {reference.scale:.2g}), so a layer without weights differs, such as a stride"
        )
    size, classes = reference.image_size, len(reference.classes)
    stem = f"; up to {SMALL_IMAGE} pixels recursivemix keeps the resolution" if size <= SMALL_IMAGE else ""
    transfer = "; --allow-mismatch writes the keys that match, as a start for fine-tuning"
    raise ValueError(
        f"{twin.library}'s own {twin.name} is not the {reference.model} that was trained here on {size} x "
        f"{size} pixels: {difference}{stem}. Use --to onnx, or create it in Python with "
        f"recursivemix.models.create.create_model({reference.model!r}, {classes}, {size})"
        + (transfer if twin.keys.matched else "")
    )


def check_read_back(twin: Twin, reference: Reference, loaded: nn.Module, prefix: str = "") -> float | None:
    """Compare the network that a library loaded from the file with the trained one.

    Args:
        twin: the network that the file was written from.
        reference: the trained classifier.
        loaded: the library's network with the weights of the file.
        prefix: prefix that the library adds to its keys.

    Returns:
        Largest absolute difference of a logit; None if not every key loads.

    Raises:
        ValueError: the library loads other values than were written.
    """
    state = loaded.state_dict()
    for key, value in twin.loadable.items():
        if not state[prefix + key].equal(value):
            raise ValueError(
                f"{twin.library} loaded other values of {key} than were written: please report this bug"
            )
    if not twin.keys.same or twin.failure:
        return None
    difference = reference.difference(logits_of(loaded, reference.images))
    if twin.same and not reference.agrees(difference):
        raise ValueError(
            f"loaded by {twin.library}, the logits differ by {difference:.2g}, more than {TOLERANCE:g} of "
            f"the largest, {reference.scale:.2g}: please report this bug"
        )
    return difference


def save_weights(
    path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str], target: str
) -> None:
    """Write a safetensors file; its header holds ``metadata`` and the format that readers require."""
    save = package("safetensors.torch", target).save
    path.write_bytes(save(dict(weights), metadata={"format": "pt", **metadata}))


def call_arguments(arguments: Mapping[str, Any]) -> str:
    """Format further keyword arguments of a call: ``, img_size=96``; empty if there are none."""
    return "".join(f", {name}={value!r}" for name, value in arguments.items())
