"""The command line: ``recursivemix fit | test``.

Flags and YAML keys are made from the signatures they fill. What can't be used ends in one line on standard
error and exit code 2, before anything is written.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

EXTRA = "pip install 'recursivemix[train]'"
try:
    from jsonargparse import ArgumentParser, Namespace
    from lightning import Trainer
    from rich.console import Console
    from rich.table import Table

    from recursivemix import __version__
    from recursivemix.data.folder import UnreadableImageError
    from recursivemix.explain.gallery import MixedBatchGallery
    from recursivemix.report.records import environment, write_json
    from recursivemix.training.fit import FitConfig, Prepared, Result, fit, prepare
    from recursivemix.training.measure import measure_checkpoint
except ImportError as error:  # the library itself needs torch alone
    sys.exit(f"recursivemix: error: the command line needs {error.name}: {EXTRA}")

EXAMPLES = """examples:
  recursivemix fit
      a ResNet-20 on scikit-learn's handwritten digits with RecursiveMix
  recursivemix fit --data DIR --model resnet18 --epochs 60
      a folder of images: DIR/train/CLASS and DIR/val/CLASS
  recursivemix fit --data DIR --val-split 0.2 --mixer cutmix --mixer-options.prob 0.5
  recursivemix test --checkpoint RUN/checkpoints/last.ckpt --data DIR"""


class UsageError(ValueError):
    """Something that the person who typed the command can mend; its message is one line."""


class DashedParser(ArgumentParser):
    """Options are written with dashes; the arguments they fill have underscores."""

    def format_help(self, *formatter: Any) -> str:
        return _dashed(super().format_help(*formatter))

    def format_usage(self, *formatter: Any) -> str:
        return _dashed(super().format_usage(*formatter))


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def _dashed(text: str) -> str:
    return re.sub(r"--[a-z][\w.]*", lambda match: match[0].replace("_", "-"), text)


def make_parser() -> tuple[DashedParser, dict[str, DashedParser]]:
    """The parser, and the parsers of its commands by name."""
    parser = DashedParser(
        prog="recursivemix",
        description="Mixed-sample training with a memory.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        version=__version__,
    )
    train = DashedParser(
        usage="recursivemix fit [options]", description="Train a network on mixed batches."
    )
    train.add_argument("--config", action="config", help="YAML file of settings; later flags win.")
    train.add_class_arguments(FitConfig, as_group=False)
    train.add_class_arguments(Trainer, "trainer", instantiate=False)
    test = DashedParser(
        usage="recursivemix test --checkpoint CHECKPOINT [options]",
        description="Measure a checkpoint on the images its training was evaluated on.",
    )
    test.add_function_arguments(measure_checkpoint, as_group=False)
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("fit", train, help="train a network")
    commands.add_subcommand("test", test, help="measure the accuracy of a checkpoint again")
    return parser, {"fit": train, "test": test}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser, commands = make_parser()
    words = sys.argv[1:] if arguments is None else arguments
    settings = parser.parse_args([_underscored(word) for word in words])
    name = settings.command
    run = {"fit": run_fit, "test": run_test}[name]
    try:
        run(commands[name], settings[name])
    except UsageError as error:
        print(f"recursivemix {name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def run_fit(parser: DashedParser, settings: Namespace) -> None:
    """Train, and leave a run folder behind; or nothing, if the run can't begin."""
    chosen = parser.instantiate(settings)
    try:
        names = [field.name for field in dataclasses.fields(FitConfig)]
        prepared = prepare(FitConfig(**{name: chosen[name] for name in names}))
        prepared.folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        raise UsageError(error) from error
    folder = prepared.folder
    where = environment()  # as the run begins: files may change under a long one
    (folder / "config.yaml").write_text(parser.dump(settings, skip_unset=False))
    gallery = MixedBatchGallery(
        folder / "mixed_batches.png", prepared.data.classes, prepared.data.mean, prepared.data.std
    )
    defaults = {name: p.default for name, p in inspect.signature(Trainer.__init__).parameters.items()}
    options = {name: value for name, value in chosen.trainer.items() if value != defaults[name]}
    try:
        result = fit(prepared, [gallery], **options)
    except UnreadableImageError as error:
        if not (folder / "checkpoints").exists():
            shutil.rmtree(folder)
        # A loader's worker sends its whole traceback along; the last line is the message.
        last = str(error).strip().splitlines()[-1]
        raise UsageError(last.partition("UnreadableImageError: ")[2] or last) from error
    write_json(
        folder / "record.json", fit_record(prepared, result, where, parser.dump(settings, format="json"))
    )
    print_result(prepared, result)


def run_test(parser: DashedParser, settings: Namespace) -> None:
    """Print a checkpoint's accuracy and loss."""
    try:
        metrics = measure_checkpoint(**settings.as_dict())
    except ValueError as error:
        raise UsageError(error) from error
    table = Table(show_header=False)
    table.add_row("accuracy", f"{metrics['acc1']:.2f} %")
    table.add_row("loss", f"{metrics['val_loss']:.4f}")
    Console().print(table)


def fit_record(prepared: Prepared, result: Result, where: dict[str, Any], config: str) -> dict[str, Any]:
    """All that a comparison or a reader needs to know of a run, and to repeat it."""
    return {
        "kind": "fit",
        **where,
        "seed": prepared.config.seed,
        "config": json.loads(config),
        "data": {
            "train_images": len(prepared.data.train),
            "evaluation_images": len(prepared.data.evaluation),
            "evaluation_split": prepared.data.split,
            "classes": len(prepared.data.classes),
            "image_size": prepared.data.image_size,
        },
        "acc1_last": result.acc1,
        "acc1_best": result.best_acc1,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "images_per_second": round(result.images_per_second, 1),
        "mixer_stats": prepared.module.mixer.stats,
        "epochs": result.rows,
    }


def print_result(prepared: Prepared, result: Result) -> None:
    """The short table at the end of a run."""
    table = Table(title=f"{prepared.config.model}, {prepared.config.mixer}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path is only of use whole
    count = len(prepared.data.evaluation)
    table.add_row("accuracy, last epoch", f"{result.acc1:.2f} % of {count} images ({prepared.data.split})")
    table.add_row("accuracy, best epoch", f"{result.best_acc1:.2f} % (epoch {result.best_epoch})")
    table.add_row("time", f"{result.seconds:.1f} s")
    table.add_row("training speed", f"{result.images_per_second:,.0f} images/s")
    table.add_row("run folder", str(result.folder))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
