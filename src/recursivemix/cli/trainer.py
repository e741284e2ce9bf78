"""The options of Lightning's Trainer, ``--trainer.*``; Lightning is imported if one of them is given."""

from __future__ import annotations

import argparse
import inspect
import operator
from functools import reduce
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from recursivemix.training.options import helps_of

REPLACED = (
    "accelerator",
    "devices",
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
    "sync_batchnorm",
)
"""Options whose default is a setting of the run: Lightning's default is a choice like any other."""


class TrainerOptions(dict[str, Any]):
    """Arguments of Lightning's Trainer other than the defaults of a run, as a YAML file holds them."""


def add_trainer(parser: ArgumentParser) -> None:
    """Add the options; imports Lightning.

    An option that takes ``int`` or ``float`` tries ``int`` first: 1 is one batch, 1.0 is all of them.
    `typing` caches equal unions, so the order that Lightning declares is lost if any library has evaluated
    ``Union[float, int]`` before.
    """
    from lightning import Trainer

    kinds = {name: get_args(kind) for name, kind in get_type_hints(Trainer.__init__).items()}
    mixed = {name: kind for name, kind in kinds.items() if {int, float} <= {*kind}}
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip={*mixed})
    defaults, helps = inspect.signature(Trainer.__init__).parameters, helps_of(Trainer.__init__)
    for name, kind in mixed.items():
        ordered = reduce(operator.or_, sorted(kind, key=lambda one: (one is not int, one is str)))
        default = defaults[name].default
        parser.add_argument(f"--trainer.{name}", type=ordered, default=default, help=helps.get(name))
    parser.set_defaults({f"trainer.{name}": None for name in REPLACED})


def trainer_options(parser: ArgumentParser, values: Namespace) -> TrainerOptions:
    """Return the options of what was parsed that differ from the defaults of a run."""
    if "trainer" not in values:
        return TrainerOptions()
    from lightning import Trainer

    parameters = inspect.signature(Trainer.__init__).parameters
    defaults = {name: one.default for name, one in parameters.items()} | dict.fromkeys(REPLACED)
    plain = yaml.safe_load(parser.dump(values, skip_unset=False))["trainer"]
    return TrainerOptions((name, value) for name, value in plain.items() if value != defaults[name])


class HelpTrainer(argparse.Action):
    """Show the options of Lightning's Trainer."""

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print them and exit."""
        if "--trainer.max_epochs" not in parser._option_string_actions:
            add_trainer(parser)
        names = [action.dest for action in parser._actions if action.dest.startswith("trainer.")]
        print(parser.format_help({"Lightning's Trainer": names}), end="")
        parser.exit()
