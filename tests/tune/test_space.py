"""What is searched for which mixer, how it is narrowed, and how a trial becomes settings of a run."""

import pytest

from recursivemix import MIXERS
from recursivemix.tune.settings import TuneSettings
from recursivemix.tune.space import Range, default_params, method_of, narrowed, space_of

OPTIMIZER = {"lr", "weight_decay"}


@pytest.mark.parametrize(
    ("mixer", "names"),
    [
        ("recursivemix", {"prob", "max_area", "omega", "mix_stop"}),
        ("cutmix", {"prob", "alpha", "mix_stop"}),
        ("gridmix", {"prob", "alpha", "grid", "mix_stop"}),
        ("resizemix", {"prob", "min_scale", "max_scale", "mix_stop"}),
        ("dlb", {"weight", "temperature"}),
        ("none", set()),
    ],
)
def test_the_space_comes_from_the_constructor(mixer, names):
    assert space_of(TuneSettings(mixer=mixer)).keys() == names | OPTIMIZER


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_defaults_of_every_mixer_are_in_its_space(mixer):
    settings = TuneSettings(mixer=mixer)
    space = space_of(settings)
    assert default_params(settings, space).keys() == space.keys()
    assert all(
        values.distribution()._contains(
            values.distribution().to_internal_repr(default_params(settings, space)[name])
        )
        for name, values in space.items()
    )


def test_a_searched_setting_may_have_no_default():
    settings = TuneSettings(space={"warmup_epochs": [0, 3], "drop": 0.1, "lr": [0.05, 0.2]})
    defaults = default_params(settings, space_of(settings))
    assert defaults["lr"] == 0.1
    assert not {"warmup_epochs", "drop"} & defaults.keys()  # the first trial draws them


def test_ranges_are_narrowed_fixed_and_added():
    given = {
        "lr": [0.05, 0.2],
        "omega": 0.5,
        "prob": [0.3, 0.5, 1.0],
        "batch_size": [32, 128],
        "average_last": [2, 5],
        "optimizer": ["sgd", "adamw"],
    }
    space = space_of(TuneSettings(space=given, settings={"weight_decay": 1e-4}))
    assert space["lr"] == Range(0.05, 0.2, log=True)
    assert space["omega"] == Range(choices=(0.5,))
    assert space["prob"] == Range(choices=(0.3, 0.5, 1.0))
    assert space["batch_size"] == Range(32, 128)
    assert type(space["average_last"].low) is int  # it has no default to tell
    assert space["optimizer"] == Range(choices=("sgd", "adamw"))
    assert "weight_decay" not in space  # given for all runs
    assert str(space["lr"]) == "0.05 to 0.2, logarithmic"
    assert narrowed("grid", [2, 4], None, whole=True).distribution().high == 4
    assert isinstance(narrowed("alpha", [1, 2], None, whole=False).low, float)
    assert space_of(TuneSettings(space={"mix_stop": [0.5, 1]}))["mix_stop"] == Range(0.5, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixer": "cutmx"}, "--mixer must be one of none, .*, got 'cutmx'"),
        (
            {"space": {"omga": 1}},
            "--space.omga: neither recursivemix nor recursivemix fit has such a setting",
        ),
        ({"space": {"epochs": 1}}, "--space.epochs: neither"),
        (
            {"space": {"lr": [0.2, 0.1]}},
            r"--space.lr must be a value, a range such as .*, got \[0.2, 0.1\]",
        ),
        ({"space": {"mix_stop": [10, 25]}}, r"--space.mix_stop must be shares .*, got \[10, 25\]"),
        ({"space": {"lr": {"low": 1}}}, "--space.lr must be a value, a range"),
        ({"space": {"lr": 0.1}, "settings": {"lr": 0.1}}, "lr is in --space and in --settings"),
        ({"settings": {"val_split": 0.1}}, "--settings.val_split is set by the search: use --val-split"),
        ({"settings": {"mixer_options": {}}}, "--settings.mixer_options is set by the search: use --space"),
        ({"budget": "soon"}, "--budget must be a time such as 2h"),
        ({"reduction": 1}, "--reduction must be at least 2, got 1"),
        ({"val_split": 1.0}, r"--val-split is a share of each class and must be in \(0, 1\), got 1"),
        ({"address": "here"}, "add --executor ray"),
    ],
)
def test_what_cannot_be_searched_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        space_of(TuneSettings(**options))


def test_a_trial_becomes_settings_of_a_run():
    params = {"prob": 0.5, "omega": 0.2, "lr": 0.3, "mix_stop": 0.8}
    expected = {"mixer": "recursivemix", "mixer_options": {"prob": 0.5, "omega": 0.2}, "lr": 0.3}
    settings = TuneSettings()
    assert method_of(settings, params, 10, 30) == expected | {"mix_stop": 8}
    assert method_of(settings, params, 1, 30) == expected
    assert method_of(settings, params | {"mix_stop": 1.0}, 10, 30) == expected
    constant = TuneSettings(settings={"schedule": "constant"})
    for epochs in (10, 30):  # one schedule for all lengths
        assert method_of(constant, params, epochs, 30) == expected | {"mix_stop": 24, "warmup_epochs": 1.5}
