"""The table of commands, and the function that runs the one that was typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from typing import Any, NamedTuple

from recursivemix import __version__
from recursivemix.data.printable import printable

from .errors import Failed, Interrupted, UsageError, usage_errors

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "fit": ("train", "Train a classifier, or resume a run"),
        "transfer detection": ("train", "Train a backbone to find boxes: ATSS, GFL, FCOS, RetinaNet"),
        "transfer instance": ("train", "Train a backbone to find boxes and masks: Mask R-CNN"),
        "transfer segmentation": ("train", "Train a backbone to label every pixel: UPerNet, PSPNet"),
        "recipes": ("recipes", "List the recipes of published results, or print one"),
    },
    "compare": {
        "compare": ("compare", "Train several methods with several seeds; ends in one page"),
        "transfer compare": ("compare", "Train and transfer backbones of several methods; one page"),
        "tune": ("tune", "Search the settings of a method, and confirm the best on fresh seeds"),
        "report": ("compare", "Rebuild the page or the table of a comparison"),
    },
    "use a checkpoint": {
        "evaluate": ("measure", "Measure accuracy, calibration, robustness, localization"),
        "predict": ("files", "Predict images: labels, boxes and masks, or label maps"),
        "explain": ("pictures", "Draw where networks look"),
        "export": ("files", "Write a backbone for timm, torchvision, Hugging Face or ONNX"),
    },
    "look at data and mixing": {
        "doctor": ("files", "Check a folder of images for problems"),
        "pack": ("files", "Write a data set into one file that is read faster"),
        "preview": ("pictures", "Draw the first mixed batches"),
        "statistics": ("pictures", "Measure what a mixer does to many batches"),
        "studio": ("pictures", "Serve a page to step through the mixing by hand"),
    },
}
"""Commands by group: the module of this folder that holds the function, and one line of help."""
UNLISTED = {
    "test": ("measure", "evaluate, under its old name"),
    "transfer predict": ("files", "predict for a folder, under its old name"),
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()} | UNLISTED
EXAMPLES = """examples:
  recursivemix fit
      train a ResNet-20 on scikit-learn's handwritten digits with RecursiveMix
  recursivemix fit --data DIR --model resnet18 --epochs 60
      train on a folder of images: DIR/train/CLASS and DIR/val/CLASS
  recursivemix compare --data DIR --mixers none,cutmix,recursivemix --seeds 3 --epochs 30
  recursivemix evaluate --checkpoint RUN/checkpoints/last.ckpt --data DIR --probes all

recursivemix COMMAND --help shows the options and examples of a command."""


class Call(NamedTuple):
    """A command with its arguments."""

    function: Callable[..., None]
    arguments: dict[str, Any]

    def run(self) -> None:
        """Run the command."""
        parameters = signature(self.function).parameters
        named = dict(self.arguments)
        positional = [named.pop(n) for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY]
        self.function(*positional, **named)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 1 (failed), 2 (usage) or 130 (interrupted).

    Raises:
        SystemExit: after ``--help`` or ``--version`` (code 0), or a wrong option (code 2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    prog = " ".join(["recursivemix", *words[: command_length(words)]])
    try:
        try:
            parse(words).run()
        finally:
            sys.stdout.flush()  # a closed pipe raises here, not when Python exits
    except UsageError as error:
        print(f"{prog}: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"{prog}: failed: {printable(str(error))}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"{prog}: {printable(str(error))}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has enough: recursivemix recipes | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "recursivemix"):
            raise
        print(f"{prog}: error: {package} is missing: pip install 'recursivemix[train]'", file=sys.stderr)
        return 1
    return 0


def overview(start: str = "") -> str:
    """Return the list of commands, or of those whose name begins with ``start``."""
    lines = [f"usage: recursivemix {start}COMMAND [options]", "", "Mixed-sample training with a memory."]
    for title, commands in GROUPS.items():
        shown = {name: line for name, (_, line) in commands.items() if name.startswith(start)}
        if shown:
            lines += ["", f"{title}:", *(f"  {name:<22} {line}" for name, line in shown.items())]
    return "\n".join(lines)


def command_length(words: Sequence[str]) -> int:
    """Return how many of the words name a command; 0 if there is no such command."""
    return next((count for count in (2, 1) if " ".join(words[:count]) in COMMANDS), 0)


def parse(words: Sequence[str]) -> Call:
    """Return the command that was typed, with its arguments; nothing is run.

    Raises:
        UsageError: no such command, or settings that are out of range or exclude each other.
        SystemExit: after ``--help`` or ``--version`` (code 0), or a wrong option (code 2).
    """
    count = command_length(words)
    if count == 0:
        show_overview(words)
        name = " ".join(words[: 2 if words[0] == "transfer" else 1])
        near = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "recursivemix --help lists the commands"
        raise UsageError(f"unknown command {name!r}; {hint}")
    from .parser import parse_options

    name, options = " ".join(words[:count]), words[count:]
    module = import_module(f"{__package__}.{COMMANDS[name][0]}")
    function = getattr(module, name.replace(" ", "_"))
    with usage_errors():
        if hasattr(module, "expand"):
            options = module.expand(name, options)
        return Call(function, parse_options(name, function, options, getattr(module, "COMMON", ())))


def show_overview(words: Sequence[str]) -> None:
    """Print the version or the list of commands and exit, if the words ask for it."""
    asked, start = words[-1:] in (["-h"], ["--help"]), words[:1] == ["transfer"]
    if words == ["--version"]:
        print(f"recursivemix {__version__}")
        sys.exit(0)
    if len(words) == asked + start:
        print(overview("transfer ") if start else f"{overview()}\n\n{EXAMPLES}")
        sys.exit(0 if asked else 2)
