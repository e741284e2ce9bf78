"""Commands that read or write files: recipes, exports, predictions, checks of a folder."""

from __future__ import annotations

from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any

from recursivemix.export.export import export_checkpoint
from recursivemix.recipes import read_recipe, recipe_names
from recursivemix.tasks.transfer_predict import predict

from .errors import usage_errors


def recipes(name: str | None = None, /) -> None:
    """List the recipes of published results, or print one.

    Args:
        name: Recipe to print.

    Examples:
        recursivemix recipes cifar100-resnet18
        recursivemix fit --recipe cifar100-resnet18 --data DIR
        recursivemix fit --recipe cifar100-resnet18 --data DIR --mixer none
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    with usage_errors():
        if name is not None:
            recipe = read_recipe(name)
            print((resources.files("recursivemix.recipes") / f"{recipe.name}.yaml").read_text(), end="")
            return
        found = [read_recipe(name) for name in recipe_names()]
    table = Table(show_lines=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("epochs")
    table.add_column("expected")
    for recipe in found:
        table.add_row(recipe.name, str(recipe.settings["epochs"]), escape(recipe.header["expected"]))
    Console().print(table)
    print("recursivemix recipes NAME prints one with its command, such as")
    print("recursivemix fit --recipe NAME --data DIR [--mixer none]")


@wraps(export_checkpoint)
def export(**options: Any) -> None:
    """Print what became of the keys."""
    with usage_errors():
        report = export_checkpoint(**options)
    report.print()


@wraps(predict)
def transfer_predict(**options: Any) -> None:
    """Print the number of images and the folder."""
    with usage_errors():
        count, out = predict(**options)
    print(f"{count} images: {out}")


def doctor(folder: Path, /, *, workers: int = 2, out: Path | None = None) -> None:
    """Check a folder of images: unreadable files, duplicates across splits, class counts, sizes, colour modes.

    Args:
        folder: Folder of images: train/CLASS and val/CLASS, or CLASS.
        workers: Number of threads that read images.
        out: File to write the diagnosis to, as JSON.
    """
    from recursivemix.data.diagnosis import print_diagnosis
    from recursivemix.data.doctor import examine
    from recursivemix.report.records import write_json

    with usage_errors():
        diagnosis = examine(folder, workers=workers)
        print_diagnosis(diagnosis)
        if out is not None:
            write_json(out, diagnosis.as_dict())
