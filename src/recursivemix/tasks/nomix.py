"""Training as it is without mixing."""

from __future__ import annotations

from typing import Any


class NoDenseMix:
    """Keeps nothing, so that what trains need not ask whether there is a mixer to keep."""

    def start_epoch(self) -> None:
        """Nothing begins."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing lasts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is taken up."""
