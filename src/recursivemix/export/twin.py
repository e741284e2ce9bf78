"""A library's own network beside a trained one: whether it is the same by keys, shapes and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recursivemix.models import SMALL_IMAGE
from recursivemix.models.weight_keys import Keys, compare_keys

from .packages import package
from .trained import TOLERANCE, Trained, logits_of


@dataclass(frozen=True)
class Twin:
    """A library's network, holding every weight of the trained one that it can take."""

    library: str
    name: str
    """What the library calls the network."""
    arguments: dict[str, Any]
    """What the network was made with, beside its name and number of classes."""
    network: nn.Module
    weights: dict[str, Tensor]
    """The trained network's, under the library's keys."""
    keys: Keys
    difference: float | None
    """Largest absolute difference of a logit; None if a key doesn't match, or the network can't run."""
    failure: str
    """Why it can't run on images of this size; empty if it can."""
    same: bool
    """Equal keys, shapes and logits."""

    @property
    def loadable(self) -> dict[str, Tensor]:
        """The weights whose keys and shapes are the library's: all of them, if it is the same network."""
        return {key: self.weights[key] for key in self.keys.matched}


def make_twin(
    trained: Trained,
    library: str,
    name: str,
    network: nn.Module,
    weights: dict[str, Tensor],
    arguments: dict[str, Any] | None = None,
) -> Twin:
    """Give a library's fresh network the trained weights, and compare.

    Args:
        trained: the network to compare with.
        library: its name, for messages.
        name: what the library calls the network.
        network: freshly made; its weights are replaced.
        weights: the trained ones, under the library's keys as far as they can be.
        arguments: what the network was made with, beside its name and number of classes.
    """
    network.eval()
    keys = compare_keys(weights, network.state_dict())
    network.load_state_dict({key: weights[key] for key in keys.matched}, strict=False)
    difference, failure = None, ""
    if keys.same:
        try:
            difference = trained.difference(logits_of(network, trained.images))
        except (RuntimeError, ValueError, AssertionError) as error:
            failure = " ".join(str(error).split()) or type(error).__name__
    same = difference is not None and trained.agrees(difference)
    return Twin(library, name, arguments or {}, network, weights, keys, difference, failure, same)


def require_same(twin: Twin, trained: Trained, allow_mismatch: bool) -> None:
    """Refuse a network that is not the library's own.

    Raises:
        ValueError: it is another, and no mismatch is allowed or nothing matches; the message says where
            they differ and what can be done.
    """
    if twin.same or (allow_mismatch and twin.keys.matched):
        return
    if not twin.keys.same:
        found = f"{twin.keys}"
    elif twin.difference is None:
        found = f"every key matches, but it can't take these images: {twin.failure}"
    else:
        found = (
            f"all {len(twin.keys.matched)} keys match, but its logits differ by {twin.difference:.2g} (the "
            f"largest is {trained.scale:.2g}), so a stride, a pooling or the like is another"
        )
    size, classes = trained.image_size, len(trained.classes)
    stem = f"; up to {SMALL_IMAGE} pixels recursivemix keeps the resolution" if size <= SMALL_IMAGE else ""
    transfer = "; --allow-mismatch true writes the keys that match, to fine-tune from"
    raise ValueError(
        f"{twin.library}'s own {twin.name} is not the {trained.model} that was trained here on {size} x "
        f"{size} pixels: {found}{stem}. Use --to onnx, or build it in Python with "
        f"recursivemix.models.create.create_model({trained.model!r}, {classes}, {size})"
        + (transfer if twin.keys.matched else "")
    )


def check_read_back(twin: Twin, trained: Trained, loaded: nn.Module, prefix: str = "") -> float | None:
    """Compare what a library loaded from the file with what was trained.

    Args:
        twin: what the file was written from.
        trained: the trained network.
        loaded: the library's network, with the file's weights.
        prefix: what the library puts before its keys.

    Returns:
        Largest absolute difference of a logit; None if not every key loads.

    Raises:
        ValueError: the library reads something else than was written.
    """
    state = loaded.state_dict()
    for key, value in twin.loadable.items():
        if not state[prefix + key].equal(value):
            raise ValueError(
                f"{twin.library} read other values of {key} than were written: a defect, report it"
            )
    if not twin.keys.same or twin.failure:
        return None
    difference = trained.difference(logits_of(loaded, trained.images))
    if twin.same and not trained.agrees(difference):
        raise ValueError(
            f"read back by {twin.library}, the logits differ by {difference:.2g}, more than {TOLERANCE:g} "
            f"of the largest, {trained.scale:.2g}: a defect, report it"
        )
    return difference


def save_weights(
    path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str], target: str
) -> None:
    """Write a safetensors file; ``metadata`` goes into its header, beside the format that readers want."""
    save = package("safetensors.torch", target).save
    path.write_bytes(save(dict(weights), metadata={"format": "pt", **metadata}))


def call_arguments(arguments: Mapping[str, Any]) -> str:
    """Further keyword arguments in a call: ``, img_size=96``; empty if there are none."""
    return "".join(f", {name}={value!r}" for name, value in arguments.items())
