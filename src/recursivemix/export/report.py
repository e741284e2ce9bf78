"""What an export did: which keys a library knows, how far its logits are off, how to load the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recursivemix.models.weight_keys import Keys, few


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and what was found when it was read back."""

    to: str
    model: str
    """Its name in the checkpoint."""
    path: Path
    """The file, or for Hugging Face the folder."""
    keys: Keys | None
    """Beside the library's network; None for ONNX, which has no keys of its own."""
    max_difference: float | None
    """Largest absolute difference of a logit, read back from the file; None if not every key loads."""
    scale: float
    """Largest absolute logit of the checkpoint, on the same images."""
    loading_call: str
    """Python that loads the file."""

    def print(self, console: Console | None = None) -> None:
        """Print the short table at the end of an export, and below it the call, unbroken for copying."""
        console = console or Console()
        console.print(self.table())
        console.print(Text(self.loading_call), soft_wrap=True)

    def table(self) -> Table:
        """What was written and found; without the call."""
        table = Table(title=Text(f"{self.model} to {self.to}"), show_header=False)
        table.add_column()
        table.add_column(overflow="fold")  # a path is only of use whole
        rows = {"written": str(self.path)}
        if self.keys is not None:
            rows["keys that load"] = str(len(self.keys.matched))
            rows["new in the library"] = few(self.keys.missing)
            rows["left out"] = few((*self.keys.mismatched, *self.keys.unexpected))
        if self.max_difference is None:
            rows["logits, read back"] = "not comparable: not every key loads"
        else:
            rows["logits, read back"] = (
                f"differ by at most {self.max_difference:.1e} (largest logit {self.scale:.2g})"
            )
        for name, value in rows.items():
            if value:
                table.add_row(name, Text(value))  # no markup: paths may hold brackets
        return table
