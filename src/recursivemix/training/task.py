"""What training needs to know of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Protocol

import torch
from torch import Tensor

from recursivemix.data.order import TrainingOrder

from .learner import Learner
from .settings import RunSettings


class Images(Protocol):
    """A split of a data set."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what to call an image in a message."""
        ...


class RunData(Protocol):
    """The data set of a run."""

    @property
    def train(self) -> Images: ...
    @property
    def evaluation(self) -> Images: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def split(self) -> str:
        """Name of the evaluation split."""
        ...


class Batches(Protocol):
    """A loader: an iterable of batches with ``images``, ``targets`` and ``indices``, on the device."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class TrainingBatches(Batches, Protocol):
    """A loader of training batches, which can start in the middle of an epoch."""

    first: int
    """First step of the next iteration; reset to 0 when it starts."""


class Loading(Protocol):
    """How a task makes batches of its data."""

    @property
    def data(self) -> RunData:
        """The data set; with its images in memory after `fill_cache`."""
        ...

    def fill_cache(self) -> None:
        """Decode the images that are kept in memory; called before the first step."""
        ...

    def training(
        self, order: TrainingOrder, epoch: Callable[[], int], device: torch.device
    ) -> TrainingBatches:
        """Return the training batches; ``epoch`` returns the epoch that starts."""
        ...

    def evaluation(self, images: Any, batches: Sequence[Tensor], device: torch.device) -> Batches:
        """Return evaluation batches of a split, by the index of their images; -1 is an empty place."""
        ...

    def probe(self) -> Images | None:
        """Return training images to evaluate after each epoch too, without augmentation and mixing."""
        ...


@dataclass(frozen=True)
class Task:
    """A task: its functions take the settings of the task."""

    command: str
    """Words after ``recursivemix`` that start a run, such as "fit"; also the kind of its record."""
    open_data: Callable[[Any, dict[str, Any] | None], RunData]
    """Open the data set from settings and, to resume, a checkpoint; raises ValueError."""
    create_learner: Callable[[Any, Any, dict[str, Any] | None], Learner]
    """Create network, mixer and metrics from settings, data and, to resume, a checkpoint."""
    create_loading: Callable[[Any, Any], Loading]
    """Prepare loading, from settings and data."""
    name_run: Callable[[Any], str]
    """Return the end of the default name of the run folder, from the resolved settings."""
    packages: tuple[str, ...] = ()
    """Modules that the task needs and a plain installation lacks; of the extra ``transfer``."""


def task_of(settings: RunSettings) -> Task:
    """Return the task that settings belong to."""
    task: Task = resolve_name(settings.task)
    return task
