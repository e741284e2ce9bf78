"""The report of an export: matching keys, the difference of logits, and how to load the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recursivemix.models.weight_keys import Keys, few


@dataclass(frozen=True)
class ExportReport:
    """The file that an export wrote, and how it compares after loading."""

    to: str
    model: str
    """Name of the network."""
    path: Path
    """The file, or the folder for Hugging Face."""
    keys: Keys | None
    """Compared with the library's network; None for ONNX, which has no keys of its own."""
    max_difference: float | None
    """Largest absolute difference of a logit after loading; None if some keys do not load."""
    scale: float
    """Largest absolute logit of the checkpoint, for the same images."""
    loading_call: str
    """Python that loads the file."""

    def print(self, console: Console | None = None) -> None:
        """Print the table, and below it the loading call without line breaks of its own."""
        console = console or Console()
        console.print(self.table())
        console.print(Text(self.loading_call), soft_wrap=True)

    def table(self) -> Table:
        """Return the table of what was written and how it compares."""
        table = Table(title=Text(f"{self.model} to {self.to}"), show_header=False)
        table.add_column()
        table.add_column(overflow="fold")  # paths must not be cut off
        rows = {"written": str(self.path)}
        if self.keys is not None:
            rows["keys that load"] = str(len(self.keys.matched))
            rows["new in the library"] = few(self.keys.missing)
            rows["left out"] = few((*self.keys.mismatched, *self.keys.unexpected))
        if self.max_difference is None:
            rows["logits, read back"] = "not comparable: some keys do not load"
        else:
            rows["logits, read back"] = (
                f"differ by at most {self.max_difference:.1e} (largest logit {self.scale:.2g})"
            )
        for name, value in rows.items():
            if value:
                table.add_row(name, Text(value))  # no markup: paths may hold brackets
        return table
