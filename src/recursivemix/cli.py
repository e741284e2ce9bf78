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
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from rich.console import Console
    from rich.table import Table

    from recursivemix import __version__
    from recursivemix.data.folder import UnreadableImageError
    from recursivemix.explain.gallery import MixedBatchGallery
    from recursivemix.models.region import RegionModel
    from recursivemix.report.records import environment, write_json
    from recursivemix.training.fit import FitConfig, PreparedRun, Result, fit, prepare
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


class Interrupted(Exception):
    """Ctrl-C, or the like; its message is one line."""


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
    except Interrupted as error:
        print(f"recursivemix {name}: {error}", file=sys.stderr)
        return 130
    return 0


def run_fit(parser: DashedParser, settings: Namespace) -> None:
    """Train, and leave a run folder behind; or nothing, if the run can't begin."""
    names = [field.name for field in dataclasses.fields(FitConfig)]
    defaults = {name: p.default for name, p in inspect.signature(Trainer.__init__).parameters.items()}
    try:
        chosen = parser.instantiate(settings)
        gallery = MixedBatchGallery()
        options = {name: value for name, value in chosen.trainer.items() if value != defaults[name]}
        run = prepare(FitConfig(**{name: chosen[name] for name in names}), [gallery], options)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    if not run.trainer.is_global_zero:
        fit(run)  # the first process tells of it
        return
    where = environment(gpu=run.config.device != "cpu")  # as the run begins: files may change under it
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "config.yaml").write_text(parser.dump(settings, skip_unset=False))
    except OSError as error:
        raise UsageError(f"cannot write the run folder {run.folder} (--out): {error}") from error
    gallery.prepare(run.folder / "mixed_batches.png", run.data.classes, run.data.mean, run.data.std)
    try:
        result = fit(run)
    except BaseException as error:
        started = (run.folder / "checkpoints").exists()
        if not started:
            shutil.rmtree(run.folder)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):  # Lightning turns the one into the other
            kept = f"the checkpoints so far are in {run.folder}" if started else "nothing was kept"
            raise Interrupted(f"interrupted; {kept}") from error
        if isinstance(error, (UnreadableImageError, MisconfigurationException)):
            raise UsageError(one_line(error)) from error
        raise
    write_json(
        run.folder / "record.json", fit_record(run, result, where, parser.dump(settings, format="json"))
    )
    print_result(run, result)


def run_test(parser: DashedParser, settings: Namespace) -> None:
    """Print a checkpoint's accuracy and loss."""
    try:
        metrics = measure_checkpoint(**settings.as_dict())
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    table = Table(show_header=False)
    table.add_row("accuracy", f"{metrics['acc1']:.2f} %")
    table.add_row("loss", f"{metrics['val_loss']:.4f}")
    Console().print(table)


def one_line(error: Exception) -> str:
    """An error's message; from a loader's worker it comes with a traceback, whose last line holds it."""
    text = str(error).strip()
    if isinstance(error, UnreadableImageError):
        last = text.splitlines()[-1]
        return last.partition(f"{UnreadableImageError.__name__}: ")[2] or last
    return " ".join(text.split())


def fit_record(run: PreparedRun, result: Result, where: dict[str, Any], config: str) -> dict[str, Any]:
    """All that a comparison or a reader needs to know of a run, and to repeat it."""
    return {
        "kind": "fit",
        **where,
        "seed": run.config.seed,
        "config": json.loads(config),
        "data": {
            "train_images": len(run.data.train),
            "evaluation_images": result.evaluated,
            "evaluation_split": run.data.split,
            "classes": len(run.data.classes),
            "image_size": run.data.image_size,
        },
        "acc1_last": result.acc1,
        "acc1_best": result.best_acc1,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "images_per_second": round(result.images_per_second, 1),
        "mixer_stats": run.module.mixer.stats,
        "feature_map": feature_map(run),
        "epochs": result.rows,
    }


def feature_map(run: PreparedRun) -> str | None:
    """What the region head sees, in words; None where there is none."""
    network = run.module.network
    if not isinstance(network, RegionModel):
        return None
    found = network.feature_map
    return f"{found.name} ({found.layout}, {found.channels} channels)"


def print_result(run: PreparedRun, result: Result) -> None:
    """The short table at the end of a run."""
    table = Table(title=f"{run.config.model}, {run.config.mixer}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path is only of use whole
    table.add_row(
        "accuracy, last epoch", f"{result.acc1:.2f} % of {result.evaluated} images ({run.data.split})"
    )
    table.add_row("accuracy, best epoch", f"{result.best_acc1:.2f} % (epoch {result.best_epoch})")
    table.add_row("time", f"{result.seconds:.1f} s")
    table.add_row("training speed", f"{result.images_per_second:,.0f} images/s")
    if feature_map(run) is not None:
        table.add_row("regions seen on", feature_map(run))
    table.add_row("run folder", str(result.folder))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
