"""What is searched: the settings of a mixer that have a range here, and a few of the optimizer.

A setting has the name of its option in the mixer's constructor, or of its flag in ``recursivemix fit``.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from recursivemix.mixing import MIXERS, Mixer
from recursivemix.tasks.settings import ClassificationSettings

from .settings import SET_BY_TUNE, TuneSettings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = float | int | str | bool
Params = dict[str, Any]
"""Values of the searched settings by name."""


@dataclass(frozen=True)
class Range:
    """Values of one setting: between ``low`` and ``high``, or one of ``choices``.

    Args:
        low: smallest value.
        high: largest value.
        log: draw evenly on a logarithmic scale.
        step: distance of the values from one another; 1 if both bounds are integers.
        choices: the values, instead of bounds; a single one is fixed.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()

    def times(self, factor: float) -> Range:
        """Return the range with its bounds multiplied."""
        return Range(self.low * factor, self.high * factor, self.log)

    def holds(self, value: Any) -> bool:
        """Return whether a value is in the range."""
        if self.choices or value is None:
            return value in self.choices
        return bool(self.low <= value <= self.high)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's form."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return distributions.IntDistribution(self.low, self.high, log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(str(choice) for choice in self.choices)
        return f"{self.low:.4g} to {self.high:.4g}{', logarithmic' if self.log else ''}"


MIXER_RANGES = {
    "prob": Range(0.1, 1.0),
    "max_area": Range(0.1, 0.9),
    "omega": Range(0.0, 1.0),
    "alpha": Range(0.1, 4.0, log=True),
    "size": Range(0.2, 0.8),
    "grid": Range(2, 8),
    "min_scale": Range(0.05, 0.4),
    "max_scale": Range(0.4, 1.0),
    "area_share": Range(0.0, 1.0),
}
"""Ranges of the options of mixers, by name."""
RELATIVE = {
    "lr": Range(0.2, 5, log=True),
    "weight_decay": Range(0.1, 10, log=True),
    "weight": Range(0.1, 10, log=True),
    "temperature": Range(0.5, 2, log=True),
}
"""Ranges as multiples of the default, for settings of the optimizer and options of mixers."""
MIX_STOP = Range(0.5, 1.0, step=0.1)
"""First epoch without mixing again, as a share of the epochs; 1 mixes until the end."""
DEFAULTS = {"max_area": 0.5, "mix_stop": 1.0}
"""Defaults that are None in the signature."""


def mixer_options(name: str) -> dict[str, Any]:
    """Return the options of a mixer and their defaults, from its constructor and that of `Mixer`."""
    kind = MIXERS[name]
    parameters = inspect.signature(Mixer).parameters | inspect.signature(kind).parameters
    return {
        option: DEFAULTS.get(option, parameter.default)
        for option, parameter in parameters.items()
        if parameter.default is not parameter.empty and option not in ("seed", "rank")
    }


def space_of(settings: TuneSettings) -> dict[str, Range]:
    """Return the searched and the fixed settings: the registry's, narrowed by ``--space``.

    Raises:
        ValueError: an unknown mixer, a name that is no setting, or values that are no range.
    """
    if settings.mixer not in MIXERS:
        raise ValueError(f"--mixer must be one of {', '.join(MIXERS)}, got {settings.mixer!r}")
    options, mixes = mixer_options(settings.mixer), bool(MIXERS[settings.mixer].draws)
    space = {}
    for name, default in options.items():
        if name in MIXER_RANGES and default is not None and (name != "prob" or mixes):
            space[name] = MIXER_RANGES[name]
        elif name in RELATIVE and default:
            space[name] = RELATIVE[name].times(default)
    if mixes:
        space["mix_stop"] = MIX_STOP
    for name in ("lr", "weight_decay"):
        if name not in settings.settings and settings.default_of(name):
            space[name] = RELATIVE[name].times(settings.default_of(name))
    flags = {item.name for item in fields(ClassificationSettings)} - SET_BY_TUNE.keys() | {"mix_stop"}
    for name, values in settings.space.items():
        if name not in options and name not in flags:
            raise ValueError(
                f"--space.{name}: neither {settings.mixer} nor recursivemix fit has such a setting; "
                f"searched by default: {', '.join(space)}"
            )
        whole = type(options[name]) is int if name in options else takes_whole_numbers(name)
        if name == "mix_stop":  # of `fit` an epoch, here a share of them
            whole = False
            shares = values if isinstance(values, list) else [values]
            if not all(type(share) in (int, float) and 0 < share <= 1 for share in shares):
                raise ValueError(f"--space.mix_stop must be shares of the epochs in (0, 1], got {values}")
        space[name] = narrowed(name, values, space.get(name), whole=whole)
    return space


def takes_whole_numbers(name: str) -> bool:
    """Whether the numbers that a setting of `fit` may have are integers."""
    kind = get_type_hints(ClassificationSettings)[name]
    kinds = (kind, *get_args(kind))
    return int in kinds and float not in kinds


def narrowed(name: str, values: Any, before: Range | None, whole: bool) -> Range:
    """Return the range that ``--space.NAME`` asks for; it keeps the scale of the registry's.

    Args:
        name: of the setting.
        values: as given.
        before: its range in the registry, if there is one.
        whole: whether the setting is a whole number.

    Raises:
        ValueError: neither a value, nor two increasing numbers, nor a list.
    """
    if isinstance(values, (bool, int, float, str)):
        return Range(choices=(values,))
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if numbers and len(values) == 2 and values[0] < values[1]:
        low, high = values if whole else map(float, values)
        return Range(low, high, log=before is not None and before.log and low > 0)
    if isinstance(values, list) and len(values) > 1 and (len(values) > 2 or not numbers):
        return Range(choices=tuple(values))
    raise ValueError(
        f"--space.{name} must be a value, a range such as [0.1,0.5], or a list of more than two values, "
        f"got {values!r}"
    )


def default_params(settings: TuneSettings, space: dict[str, Range]) -> Params:
    """Return the defaults of the searched settings, where they are in the space."""
    options = mixer_options(settings.mixer)
    defaults = {
        name: options[name] if name in options else DEFAULTS.get(name, settings.default_of(name))
        for name in space
    }
    return {name: value for name, value in defaults.items() if space[name].holds(value)}


def method_of(settings: TuneSettings, params: Params, epochs: int, full: int) -> dict[str, Any]:
    """Return a trial as settings of `fit`.

    Args:
        settings: of the search.
        params: values of the searched settings.
        epochs: of this run.
        full: epochs of a run of the last rung.
    """
    options = mixer_options(settings.mixer)
    method: dict[str, Any] = {"mixer": settings.mixer}
    chosen = {name: value for name, value in params.items() if name in options}
    if chosen:
        method["mixer_options"] = chosen
    method |= {name: value for name, value in params.items() if name not in options and name != "mix_stop"}
    length = full if settings.continues else epochs
    stop = max(1, round(params.get("mix_stop", 1) * length))
    if stop < length:
        method["mix_stop"] = stop
    if settings.continues and settings.default_of("warmup_epochs") is None:
        method.setdefault("warmup_epochs", 0.05 * full)  # the same in runs of every length
    return method
