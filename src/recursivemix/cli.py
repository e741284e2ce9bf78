"""The command line: ``recursivemix fit | test | evaluate | compare | transfer | report | preview |
explain | statistics | studio | recipes | export | doctor``.

Flags and YAML keys are made from the signatures they fill. What can't be used ends in one line on standard
error and exit code 2, before anything is written.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

EXTRA = "pip install 'recursivemix[train]'"
try:
    import yaml
    from jsonargparse import ArgumentParser, Namespace
    from lightning import Callback, Trainer
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from recursivemix import __version__
    from recursivemix.compare.compare import compare, plan_lines, rebuild, with_epochs
    from recursivemix.compare.estimate import measure
    from recursivemix.compare.grid import CompareConfig, open_grid
    from recursivemix.compare.transfer_compare import COMPARISON as TRANSFERRED
    from recursivemix.compare.transfer_compare import TransferCompareConfig
    from recursivemix.compare.transfer_compare import compare as compare_transfer
    from recursivemix.compare.transfer_compare import rebuild as rebuild_transfer
    from recursivemix.data.annotated import AnnotationError
    from recursivemix.data.doctor import examine, print_diagnosis
    from recursivemix.data.formats.folder import UnreadableImageError
    from recursivemix.evaluation.evaluate import evaluate_checkpoint
    from recursivemix.evaluation.measure import measure_checkpoint
    from recursivemix.explain.activation import explain
    from recursivemix.explain.gallery import MixedBatchGallery
    from recursivemix.explain.preview import preview
    from recursivemix.explain.statistics import rows_by_age, statistics, summary_rows
    from recursivemix.explain.studio import serve
    from recursivemix.export.export import export_checkpoint
    from recursivemix.models.checkpoint_file import CheckpointError
    from recursivemix.recipes import read_recipe, recipe_names
    from recursivemix.report.predictions import write_predictions
    from recursivemix.report.table import as_csv, as_json, as_latex
    from recursivemix.tasks import METRIC_NAMES, settings_class
    from recursivemix.tasks.settings import ClassificationSettings
    from recursivemix.tasks.transfer_predict import predict
    from recursivemix.training.atomic_write import write_json, write_text
    from recursivemix.training.checkpoints import NonFiniteLossError, StoppedError
    from recursivemix.training.commands import GridStoppedError
    from recursivemix.training.environment import environment
    from recursivemix.training.fit import fit
    from recursivemix.training.prepare import PreparedRun, prepare
    from recursivemix.training.record import Result, finite
except ImportError as error:  # the library itself needs torch alone
    sys.exit(f"recursivemix: error: the command line needs {error.name}: {EXTRA}")

EXAMPLES = """examples:
  recursivemix fit
      a ResNet-20 on scikit-learn's handwritten digits with RecursiveMix
  recursivemix fit --data DIR --model resnet18 --epochs 60
      a folder of images: DIR/train/CLASS and DIR/val/CLASS
  recursivemix fit --data DIR --val-split 0.2 --mixer cutmix --mixer-options.prob 0.5
  recursivemix fit --recipe cifar100-resnet18 --data DIR [--mixer none]
      a recipe of the paper, and its sibling without mixing; recursivemix recipes lists them
  recursivemix fit --resume RUN
      go on with a run that was stopped or killed, as if it had not been
  recursivemix test --checkpoint RUN/checkpoints/last.ckpt --data DIR
  recursivemix compare --data DIR --mixers none,cutmix,recursivemix --seeds 3 --epochs 30 --out compared
      methods x seeds under one budget, and a page that says which pays; --dry-run says how long it takes
  recursivemix evaluate --checkpoint RUN/checkpoints/last.ckpt --data DIR
      calibration, corruptions, occlusion, scale, several objects, localisation
  recursivemix transfer detection --backbone RUN/checkpoints/last.ckpt --data DIR
      the trained network under ATSS, on boxes in COCO's layout; without options, on scenes of digits
  recursivemix transfer segmentation --head upernet --backbone FILE --data DIR
  recursivemix preview --data DIR --mixer recursivemix --steps 8 --out preview.png
      the first batches as the network gets them; without --data, of two photographs
  recursivemix explain --checkpoint RUN/checkpoints/last.ckpt --images DIR --out explained.html
      where the network looks; --checkpoint again for a second one beside it
  recursivemix statistics --mixer recursivemix --out statistics.html
  recursivemix studio --data DIR
      one page on this machine to step through the mixing by hand
  recursivemix export --checkpoint RUN/checkpoints/last.ckpt --to timm --out backbone.safetensors
  recursivemix doctor DIR
      unreadable files, duplicates across splits, class counts, sizes, colour modes"""

TABLES = {"json": as_json, "csv": as_csv, "latex": as_latex}
"""Formats of `run_report`."""
T = TypeVar("T")
TRANSFERS = ("detection", "instance", "segmentation")
RESUME = ("resume", "resume_changed", "recipe", "config")
"""Options that lead to settings and are none."""
HARMLESS = (
    "workers", "checkpoint_every", "loggers", "download", "trainer.logger", "trainer.callbacks",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.profiler",
)  # fmt: skip
"""Settings that change nothing in what a run computes."""


class UsageError(ValueError):
    """Something that the person who typed the command can mend; its message is one line."""


class Failed(Exception):
    """A run that went wrong after it began; its message is one line."""


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
    add_run_options(train)
    train.add_class_arguments(ClassificationSettings, as_group=False)
    train.add_class_arguments(Trainer, "trainer", instantiate=False)
    test = DashedParser(
        usage="recursivemix test --checkpoint CHECKPOINT [options]",
        description="Measure a checkpoint on the images its training was evaluated on.",
    )
    test.add_function_arguments(measure_checkpoint, as_group=False)
    evaluate = DashedParser(
        usage="recursivemix evaluate --checkpoint CHECKPOINT [options]",
        description="Measure what a checkpoint is worth beyond accuracy.",
    )
    evaluate.add_function_arguments(evaluate_checkpoint, as_group=False)
    evaluate.add_argument("--out", type=Path, help="Write the record as JSON, too.")
    comparing = DashedParser(
        usage="recursivemix compare [options]", description="Compare methods over seeds, on one page."
    )
    comparing.add_argument("--config", action="config", help="YAML file of settings; later flags win.")
    comparing.add_class_arguments(CompareConfig, as_group=False)
    report = DashedParser(
        usage="recursivemix report DIR [options]",
        description="Make a comparison's page anew from its records.",
    )
    report.add_argument("folder", type=Path, help="The comparison's folder.")
    for name in TABLES:
        report.add_argument(f"--{name}", type=Path, help=f"Write the table of methods as {name}, too.")
    previewing = DashedParser(
        usage="recursivemix preview [options]",
        description="Draw the first batches of a training run as the network gets them.",
    )
    previewing.add_function_arguments(preview, as_group=False)
    explaining = DashedParser(
        usage="recursivemix explain --checkpoint CHECKPOINT [--checkpoint CHECKPOINT ...] [options]",
        description="Draw where trained networks look, side by side.",
    )
    explaining.add_function_arguments(explain, as_group=False)
    counting = DashedParser(
        usage="recursivemix statistics [options]",
        description="Measure what a mixer does to many batches, without data or training.",
    )
    counting.add_function_arguments(statistics, as_group=False)
    studio = DashedParser(
        usage="recursivemix studio [options]",
        description="Serve a page on this machine to step through the mixing by hand.",
    )
    studio.add_function_arguments(serve, as_group=False, skip={"tell"})
    recipes = DashedParser(
        usage="recursivemix recipes [NAME]", description="List the recipes, or print one."
    )
    recipes.add_argument("name", nargs="?", type=str, help="Print this recipe's file.")
    export = DashedParser(
        usage="recursivemix export --checkpoint CHECKPOINT --to FORMAT --out PATH",
        description="Write a checkpoint's backbone as another library expects it, and load it there.",
    )
    export.add_function_arguments(export_checkpoint, as_group=False)
    doctor = DashedParser(
        usage="recursivemix doctor DIR [options]", description="Examine a folder of images."
    )
    doctor.add_argument("data", type=Path, help="The folder.")
    doctor.add_argument("--workers", type=int, default=2, help="Threads that read images.")
    doctor.add_argument("--out", type=Path, help="Write what was found as JSON, too.")
    transfer = DashedParser(
        usage="recursivemix transfer COMMAND [options]",
        description="A trained backbone in detection, instance and semantic segmentation.",
    )
    commands = {
        "fit": train,
        "test": test,
        "evaluate": evaluate,
        "compare": comparing,
        "transfer": transfer,
        "report": report,
        "preview": previewing,
        "explain": explaining,
        "statistics": counting,
        "studio": studio,
        "recipes": recipes,
        "export": export,
        "doctor": doctor,
    }
    helps = {
        "fit": "train a network, or go on with a run",
        "test": "measure the accuracy of a checkpoint again",
        "evaluate": "measure a checkpoint beyond accuracy",
        "compare": "compare methods over seeds",
        "transfer": "train a backbone on boxes, masks or label maps",
        "report": "make a comparison's page anew, or its table",
        "preview": "draw the first mixed batches",
        "explain": "draw where networks look",
        "statistics": "measure the mixing process",
        "studio": "a live page of the mixing",
        "recipes": "list the recipes",
        "export": "write a backbone for timm, torchvision, Hugging Face or ONNX",
        "doctor": "examine a folder of images",
    }
    subcommands = parser.add_subcommands(dest="command")
    for name, command in commands.items():
        subcommands.add_subcommand(name, command, help=helps[name])
    tasks = add_transfer_commands(transfer)
    return parser, commands | {f"transfer {name}": task for name, task in tasks.items()}


def add_transfer_commands(parser: DashedParser) -> dict[str, DashedParser]:
    """The parsers of the commands of ``recursivemix transfer``, by name."""
    helps = {
        "detection": "boxes: ATSS, GFL, FCOS or RetinaNet",
        "instance": "boxes and masks: Mask R-CNN",
        "segmentation": "a class at every pixel: UPerNet or PSPNet",
        "predict": "pictures and results of a trained network on a folder of images",
        "compare": "backbones of several methods, each transferred, on one page",
    }
    commands = {}
    for name in TRANSFERS:
        command = DashedParser(
            usage=f"recursivemix transfer {name} [options]", description=f"Train for {helps[name]}."
        )
        add_run_options(command)
        command.add_class_arguments(settings_class(name), as_group=False)
        command.add_class_arguments(Trainer, "trainer", instantiate=False)
        commands[name] = command
    commands["predict"] = DashedParser(
        usage="recursivemix transfer predict --checkpoint CHECKPOINT --images DIR [options]",
        description="Write pictures and results of every image of a folder.",
    )
    commands["predict"].add_function_arguments(predict, as_group=False)
    commands["compare"] = DashedParser(
        usage="recursivemix transfer compare --out DIR [options]",
        description="Train a backbone with each method, transfer each, and compare on one page.",
    )
    commands["compare"].add_argument(
        "--config", action="config", help="YAML file of settings; later flags win."
    )
    commands["compare"].add_class_arguments(TransferCompareConfig, as_group=False)
    subcommands = parser.add_subcommands(dest="command")
    for name, command in commands.items():
        subcommands.add_subcommand(name, command, help=helps[name])
    return commands


def add_run_options(parser: DashedParser) -> None:
    """The options that lead to settings of a run."""
    parser.add_argument("--config", action="config", help="YAML file of settings; later flags win.")
    parser.add_argument(
        "--recipe", type=str, help="A recipe's settings, see recursivemix recipes; flags win."
    )
    parser.add_argument(
        "--resume",
        type=str,
        help="Folder of a run to go on with, or one of its checkpoints; takes its settings.",
    )
    parser.add_argument(
        "--resume_changed", action="store_true", help="Go on although settings differ from the run's."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser, commands = make_parser()
    words = written_out(sys.argv[1:] if arguments is None else arguments)
    runs: dict[str, Callable[[DashedParser, Namespace], None]] = {
        "fit": partial(run_task, "classification"),
        "test": run_test,
        "evaluate": run_evaluate,
        "compare": run_compare,
        **{f"transfer {task}": partial(run_task, task) for task in TRANSFERS},
        "transfer predict": run_predict,
        "transfer compare": run_transfer_compare,
        "report": run_report,
        "preview": run_preview,
        "explain": run_explain,
        "statistics": run_statistics,
        "studio": run_studio,
        "recipes": run_recipes,
        "export": run_export,
        "doctor": run_doctor,
    }
    name = words[0] if words else ""
    try:
        settings = parser.parse_args(expanded(words))
        name, own = settings.command, settings[settings.command]
        if name == "transfer":
            name, own = f"transfer {own.command}", own[own.command]
        runs[name](commands[name], own)
    except UsageError as error:
        print(f"recursivemix {name}: error: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"recursivemix {name}: failed: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"recursivemix {name}: {error}", file=sys.stderr)
        return 130
    return 0


def written_out(arguments: Sequence[str]) -> list[str]:
    """Options with underscores; ``--compile`` and ``--no-compile`` with the value that they stand for."""
    words = [_underscored(word) for word in arguments]
    settings = [*dataclasses.fields(ClassificationSettings), *dataclasses.fields(CompareConfig)]
    flags = {f"--{item.name}" for item in settings if item.type == "bool"}
    flags |= {"--allow_mismatch", "--flip"}
    for i, (word, following) in enumerate(itertools.zip_longest(words, words[1:])):
        if word in flags and following not in ("true", "false"):
            words[i] = f"{word}=true"
        elif word.startswith("--no_") and f"--{word[5:]}" in flags:
            words[i] = f"--{word[5:]}=false"
    return words


def expanded(words: list[str]) -> list[str]:
    """``--resume`` and ``--recipe`` with the settings that they stand for; flags come after and win."""
    if words[:1] == ["explain"]:
        return gathered(words, ("--checkpoint", "--classes"))
    command = words[: 2 if words[:1] == ["transfer"] else 1]
    task = command[-1] if command else ""
    if command != ["fit"] and task not in TRANSFERS:
        return words
    options = words[len(command) :]
    resume, recipe = value_of(words, "--resume"), value_of(words, "--recipe")
    if resume is not None and recipe is not None:
        raise UsageError("--resume takes the settings of its run: leave --recipe out")
    if resume is not None:
        return [*command, "--config", str(run_settings(Path(resume))), *options]
    if recipe is not None:
        try:
            found = read_recipe(recipe)
            if found.task != task:
                raise UsageError(f"the recipe {recipe} is of another command: {found.header['command']}")
            settings = found.settings_with(value_of(words, "--mixer"))
        except ValueError as error:
            raise UsageError(one_line(error)) from error
        return [*command, "--config", yaml.safe_dump(settings), *options]
    return words


def gathered(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Options that were given several times as one list each, ``--checkpoint A --checkpoint B``."""
    values: dict[str, list[str]] = {option: [] for option in options}
    others = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in values:
            others.append(word)
            continue
        given = value if equals else next(rest, None)
        if given is None or (not equals and given.startswith("--")):
            raise UsageError(f"{name} needs a value")
        values[name].append(given)
    return [*others, *(f"{name}={json.dumps(given)}" for name, given in values.items() if given)]


def value_of(words: list[str], option: str) -> str | None:
    """The value of ``--option VALUE`` or ``--option=VALUE``, the last one given."""
    value = None
    for word, following in itertools.zip_longest(words, words[1:]):
        if word == option:
            value = following
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


def checkpoint_of(resume: Path) -> Path:
    """The checkpoint that a run folder goes on from, or the checkpoint itself."""
    if resume.is_file():
        return resume
    last = resume / "checkpoints" / "last.ckpt"
    if not resume.is_dir():
        raise UsageError(f"--resume: there is no run {resume}")
    if not last.is_file():
        others = sorted((resume / "checkpoints").glob("*.ckpt"))
        more = (
            f"; there is {others[0]}"
            if others
            else ": it was stopped before it wrote one, so remove it and begin anew"
        )
        raise UsageError(f"--resume: the run {resume} has no checkpoint {last}{more}")
    return last


def run_settings(resume: Path) -> Path:
    """The file of settings of the run that is to be resumed."""
    file = checkpoint_of(resume).absolute().parent.parent / "config.yaml"
    if not file.is_file():
        raise UsageError(f"--resume: the settings of the run are not there: {file}")
    return file


def changed_settings(parser: DashedParser, settings: Namespace, resume: Path) -> list[str]:
    """What differs from the run that is to be resumed, a sentence each."""
    before = vars(parser.parse_args(["--config", str(run_settings(resume))]).as_flat())
    now = vars(settings.as_flat())
    changes = []
    for name in sorted(before.keys() | now.keys()):
        if name in RESUME or name.startswith(HARMLESS):
            continue
        old, new = before.get(name), now.get(name)
        if str(old) != str(new):
            changes.append(f"--{name.replace('_', '-')} is {new}, was {old}")
    return changes


def run_task(task: str, parser: DashedParser, settings: Namespace) -> None:
    """Train, and leave a run folder behind; or nothing, if the run cannot start."""
    resume, changed = resumed_from(parser, settings)
    gallery = MixedBatchGallery()
    callbacks: list[Callback] = [gallery] if task == "classification" else []
    try:
        config, options = chosen_settings(parser, settings, settings_class(task))
        run = prepare(config, callbacks, options, resume, changed)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    for note in run.learner.notes if run.trainer.is_global_zero else ():
        print(note)
    if task == "classification" and run.trainer.is_global_zero and resume is None:
        colors = run.learner.hparams["data"]
        gallery.prepare(run.folder / "mixed_batches.png", run.data.classes, colors["mean"], colors["std"])
    result = train(run)
    if result is None:
        return
    if task != "classification":
        write_predictions(run.learner, run.data, run.folder / "predictions.png")  # type: ignore[arg-type]
    print_result(run, result)


def resumed_from(parser: DashedParser, settings: Namespace) -> tuple[Path | None, bool]:
    """The checkpoint to go on from, and whether to do so with other settings; leaves settings alone."""
    resume = None if settings.resume is None else checkpoint_of(Path(settings.resume))
    changed = bool(settings.resume_changed)
    if settings.data is not None and Path(settings.data).exists():
        settings.data = Path(settings.data).absolute()  # a run may be taken up from another folder
    if resume is not None and not changed:
        changes = changed_settings(parser, settings, resume)
        if changes:
            raise UsageError(
                f"the settings differ from the run's: {'; '.join(changes)}. Go on nevertheless with "
                f"--resume-changed"
            )
    for name in RESUME:
        settings.pop(name, None)
    return resume, changed


def chosen_settings(parser: DashedParser, settings: Namespace, kind: type[T]) -> tuple[T, dict[str, Any]]:
    """Return the settings of a run, and the options of Lightning's Trainer that are not its defaults."""
    defaults = {name: p.default for name, p in inspect.signature(Trainer.__init__).parameters.items()}
    chosen = parser.instantiate(settings)
    plain = settings.trainer.as_dict()
    options = {name: value for name, value in plain.items() if value != defaults[name]}
    fields: Any = kind
    return kind(**{field.name: chosen[field.name] for field in dataclasses.fields(fields)}), options


def train(run: PreparedRun) -> Result | None:
    """Fit; turn failures into one-line errors. Return None on processes other than the first."""
    try:
        result = fit(run)
        return result if run.trainer.is_global_zero else None
    except (StoppedError, NonFiniteLossError, CheckpointError) as error:
        if not run.trainer.is_global_zero:
            return None  # raised on all processes; the first one reports it
        if isinstance(error, StoppedError):
            raise Interrupted(f"{error}; {resume_hint(run)}") from error
        raise Failed(one_line(error)) from error
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the one into the other
        raise Interrupted(f"interrupted; {resume_hint(run)}") from error
    except (UnreadableImageError, AnnotationError, MisconfigurationException, ValueError) as error:
        raise UsageError(one_line(error)) from error
    except OSError as error:
        raise Failed(one_line(error)) from error


def resume_hint(run: PreparedRun) -> str:
    """Return how to resume a run, if it has a checkpoint."""
    if not any((run.folder / "checkpoints").glob("*.ckpt")):
        return "nothing was kept"
    return f"go on with: recursivemix {run.task.command} --resume {run.folder}"


def run_predict(parser: DashedParser, settings: Namespace) -> None:
    """Write what a transferred network sees in a folder of images."""
    try:
        count, out = predict(**settings.as_dict())
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    print(f"{count} images: {out}")


def run_transfer_compare(parser: DashedParser, settings: Namespace) -> None:
    """Train and transfer the backbones of several methods; ends in a page."""
    settings.pop("config", None)
    if settings.data is not None and Path(settings.data).exists():
        settings.data = Path(settings.data).absolute()
    try:
        chosen = parser.instantiate(settings)
        config = TransferCompareConfig(
            **{item.name: chosen[item.name] for item in dataclasses.fields(TransferCompareConfig)}
        )
        comparison, problems = compare_transfer(config, lambda line: print(line, flush=True))
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    except (GridStoppedError, KeyboardInterrupt) as error:
        raise Interrupted("stopped; the same command goes on") from error
    print(comparison["answer"])
    print(f"page: {config.out / 'page.html'}")
    if problems:
        raise Failed(f"{len(problems)} backbones failed: {'; '.join(problems.values())}")


def run_preview(parser: DashedParser, settings: Namespace) -> None:
    """Draw mixed batches."""
    try:
        print(preview(**settings.as_dict()))
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error


def run_explain(parser: DashedParser, settings: Namespace) -> None:
    """Draw where networks look, and say on which feature map."""
    try:
        out, said = explain(**settings.as_dict())
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    for line in said:
        print(f"feature map of {line}")
    print(out)


def run_statistics(parser: DashedParser, settings: Namespace) -> None:
    """Print what a mixer does, and keep it."""
    try:
        found, record = statistics(**settings.as_dict())
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    table = Table(title=f"{found.mixer}, {found.images} images", show_header=False)
    for name, value in summary_rows(found, record):
        table.add_row(name, value)
    Console().print(table)
    ages = Table(title="means by age")
    for name in ("source", "label", "pixels", "scale", "label, closed form")[
        : 5 if record["closed_form"] else 4
    ]:
        ages.add_column(name)
    for row in rows_by_age(found, record):
        ages.add_row(*row)
    Console().print(ages)
    if settings.out is not None:
        print(settings.out)


def run_studio(parser: DashedParser, settings: Namespace) -> None:
    """Serve the live page until it is interrupted."""
    try:
        serve(**settings.as_dict(), tell=lambda line: print(line, flush=True))
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error


def run_recipes(parser: DashedParser, settings: Namespace) -> None:
    """A table of the recipes, or the file of one."""
    try:
        if settings.name is not None:
            recipe = read_recipe(settings.name)
            print(
                resources.files("recursivemix.recipes").joinpath(f"{recipe.name}.yaml").read_text(), end=""
            )
            return
        recipes = [read_recipe(name) for name in recipe_names()]
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    table = Table(show_lines=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("epochs")
    table.add_column("expected")
    for recipe in recipes:
        table.add_row(recipe.name, str(recipe.settings["epochs"]), escape(recipe.header["expected"]))
    Console().print(table)
    print("recursivemix fit --recipe NAME --data DIR [--mixer none]; recursivemix recipes NAME prints one,")
    print("with its command, which is recursivemix transfer for coco and ade20k")


def run_export(parser: DashedParser, settings: Namespace) -> None:
    """Write a backbone, and print what became of its keys."""
    try:
        report = export_checkpoint(**settings.as_dict())
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    report.print()


def run_doctor(parser: DashedParser, settings: Namespace) -> None:
    """Print what is wrong with a folder of images."""
    try:
        diagnosis = examine(settings.data, workers=settings.workers)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    print_diagnosis(diagnosis)
    if settings.out is not None:
        write_json(settings.out, diagnosis.as_dict())


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


def run_evaluate(parser: DashedParser, settings: Namespace) -> None:
    """Print what a checkpoint is worth, and keep the record."""
    arguments = settings.as_dict()
    out = arguments.pop("out")
    try:
        evaluation = evaluate_checkpoint(**arguments)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    if out is not None:
        try:
            write_json(out, environment(gpu=arguments["device"] != "cpu") | evaluation)
        except OSError as error:
            raise UsageError(f"cannot write {out} (--out): {error}") from error
    print_evaluation(evaluation)


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """The short table of `run_evaluate`."""
    table = Table(show_header=False)
    accuracy = evaluation["accuracy"]
    rows: list[tuple[str, float | None, str]] = [
        ("accuracy", accuracy["top1"], " %"),
        ("top-5 accuracy", accuracy["top5"], " %"),
        ("negative log-likelihood", evaluation["nll"], ""),
        ("Brier score", evaluation["brier"], ""),
        ("calibration error (ECE)", evaluation["ece"], " %"),
        ("accuracy under corruption", evaluation["corruption_mean"], " %"),
        ("accuracy under occlusion", evaluation["occlusion_mean"], " %"),
        ("accuracy on shrunk objects", evaluation["scale_mean"], " %"),
        ("four images in one, found in the top 4", (evaluation["multiple"] or {}).get("top4"), " %"),
        ("activation in the right quarter", (evaluation["localisation"] or {}).get("pointing"), " %"),
    ]
    for name, value, unit in rows:
        if value is not None:
            table.add_row(name, f"{value:.2f}{unit}" if unit else f"{value:.4f}")
    Console().print(table)


def run_compare(parser: DashedParser, settings: Namespace) -> None:
    """Run the grid, or say how long it would take; ends in a page."""
    if settings.data is not None and Path(settings.data).exists():
        settings.data = Path(settings.data).absolute()  # runs may begin in other folders
    settings.pop("config", None)
    try:
        chosen = parser.instantiate(settings)
        config = CompareConfig(
            **{item.name: chosen[item.name] for item in dataclasses.fields(CompareConfig)}
        )
        data = open_grid(config)
        config, paces = with_epochs(config)
        if config.dry_run:
            for line in plan_lines(config, paces or measure(config)):
                print(line)
            return
        print(f"{len(config.labels)} methods x {config.seeds} seeds, {config.epochs} epochs each")
        comparison, problems = compare(config, data, lambda line: print(line, flush=True))
    except (UnreadableImageError, MisconfigurationException, ValueError) as error:
        raise UsageError(one_line(error)) from error
    except (GridStoppedError, StoppedError, KeyboardInterrupt) as error:
        raise Interrupted("stopped; the same command goes on") from error
    print(comparison["answer"])
    print(f"page: {config.out / 'page.html'}")
    if problems:
        raise Failed(f"{len(problems)} runs failed: {'; '.join(problems.values())}")


def run_report(parser: DashedParser, settings: Namespace) -> None:
    """Make the page of a comparison anew, and the table in other formats."""
    try:
        transferred = (settings.folder / TRANSFERRED).is_file()
        comparison = (rebuild_transfer if transferred else rebuild)(settings.folder)
        for name, write in TABLES.items():
            if settings[name] is not None:
                write_text(settings[name], write(comparison))
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    print(comparison["answer"])
    print(f"page: {settings.folder / 'page.html'}")


def one_line(error: Exception) -> str:
    """An error's message; from a loader's worker it comes with a traceback, whose last line holds it."""
    text = str(error).strip()
    if isinstance(error, (UnreadableImageError, AnnotationError)):
        last = text.splitlines()[-1]
        return last.partition(f"{type(error).__name__}: ")[2] or last
    return " ".join(text.split())


def print_result(run: PreparedRun, result: Result) -> None:
    """Print the metrics of the last epoch, the best score, and what the run took."""
    learner, last = run.learner, result.rows[-1]
    table = Table(title=f"{learner.hparams['model']}, {run.settings.mixer}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # show paths in full
    name = METRIC_NAMES[result.score]
    images = f"{result.evaluated} images ({run.data.split})"
    table.add_row(f"{name}, last epoch", f"{result.last:.2f} % of {images}")
    table.add_row(f"{name}, best epoch", f"{result.best:.2f} % (epoch {result.best_epoch})")
    for metric in learner.evaluated:
        value = finite(last.get(metric))
        if metric != result.score:
            table.add_row(METRIC_NAMES[metric], "-" if value is None else f"{value:.2f}")
    table.add_row("time", f"{result.seconds:.1f} s")
    table.add_row("training speed", f"{result.images_per_second:,.1f} images/s")
    feature_map = learner.record().get("feature_map")
    if feature_map is not None:
        table.add_row("regions seen on", feature_map)
    table.add_row("run folder", str(result.folder))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
