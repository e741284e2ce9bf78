"""The command that lists recipes."""

from __future__ import annotations

from importlib import resources

from recursivemix.recipes import read_recipe, recipe_names

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
