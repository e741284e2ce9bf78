"""The part of a classifier that is not trained, or not from the start."""

from __future__ import annotations

from torch import nn

from recursivemix.models.stages import frozen_names, norms_of


class FrozenPart:
    """Parameters that are not trained, and the batch normalization layers whose statistics stay with them.

    Args:
        network: the classifier.
        freeze: value of ``--freeze``, see `frozen_names`.
        until: first epoch that trains them, counted from 0; None never does.

    Raises:
        ValueError: there are no such parameters.
    """

    def __init__(self, network: nn.Module, freeze: str, until: int | None) -> None:
        names = frozen_names(network, freeze)
        if not names:
            raise ValueError(f"--freeze {freeze}: these modules have no parameters")
        self.parameters = [value for name, value in network.named_parameters() if name in names]
        self.norms = norms_of(network, names)
        self.until = until
        if until is None:
            self._require_gradients(False)

    def start_epoch(self, epoch: int, ranks: int) -> None:
        """Freeze or train the part in this epoch; ``ranks`` processes train together."""
        frozen = self.until is None or epoch < self.until
        for norm in self.norms:
            norm.train(not frozen)
        # DistributedDataParallel decides once which gradients it exchanges: there they are dropped instead.
        if self.until is not None and ranks == 1:
            self._require_gradients(not frozen)

    def drop_gradients(self, epoch: int) -> None:
        """Remove the gradients of an epoch in which the part is frozen."""
        if self.until is not None and epoch < self.until:
            for parameter in self.parameters:
                parameter.grad = None

    def _require_gradients(self, trained: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(trained)
