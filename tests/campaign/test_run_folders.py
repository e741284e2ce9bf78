"""Run folders from elsewhere: no file of one runs code, and a malformed one is refused in one line.

Every file of a run, and of a comparison, is replaced by garbage, nothing, a folder, another type and YAML
or JSON that would take too much memory; then the commands that read the folder are called.
"""

import json
import resource
import shutil
import sys

import pytest
import yaml

from compare.made_up import write_comparison
from recursivemix.cli import main
from recursivemix.compare.settings import CompareSettings
from recursivemix.training.plain_file import DEEPEST, MOST_VALUES, parse_yaml
from recursivemix.training.trainer_classes import check_classes
from samples import FAST

pytestmark = pytest.mark.filterwarnings("ignore")
GROWTH = 256 * 2**20
"""Bytes by which all malformed files together may raise the peak memory of the process."""
ALIASES = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
"""9^9 values when its aliases are replaced."""
CONTENTS = {
    "garbage": bytes(range(256)) * 9,
    "empty": b"",
    "null": b"null",
    "number": b"3",
    "text": b"x",
    "list": b"[1, 2]",
    "table": b"{}",
    "other table": b'{"1": {"2": [null, true, "x", -1e999]}}',
    "open table": b'{"epochs": [',
    "aliases": ALIASES.encode(),
    "itself": b"a: &a [*a]",
    "deep lists": b"[" * 200_000,
    "deep tables": b'{"a":' * 200_000,
    "large": b'{"a": "' + b"x" * 2**20,
    "tag": b"a: !!python/object/apply:os.system [false]",
    "twice": b"--- {}\n--- {}\n",
    "folder": None,
}
"""What a file is replaced by; None is a folder."""
OTHER_VALUES = [None, True, -1, 1e300, "x", [], {}, [[]], {"x": None}, ["x"]]
EVIL = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
class Foo:
    def __init__(self, *args, **kwargs):
        pathlib.Path(__file__).with_name("executed").touch()
"""


@pytest.fixture(scope="module")
def finished_run(data, tmp_path_factory):
    """A finished run: resuming it is refused, so that every case ends at once."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "--data", str(data), "--out", str(folder), *FAST, "--epochs", "1"]) == 0
    return folder


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module whose import leaves a file."""
    (tmp_path / "evilmodule.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield "evilmodule.Foo"
    assert not (tmp_path / "executed").exists()
    assert "evilmodule" not in sys.modules


def outcome(words, capsys):
    """The exit code and the message of a command, which is one printable line if it fails."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    if code:
        line = error.rstrip("\n").splitlines()[-1]
        assert line.startswith(f"recursivemix {words[0]}: ")
        assert error.count("recursivemix ") >= 1
        assert "Traceback" not in error
        assert line.isprintable(), line
        assert len(line) < 1500
        return code, line
    return code, ""


def share(cases, tries):
    """All cases in a campaign, every third of them in the test suite."""
    return list(cases)[:: 1 if tries > 100 else 3]


def replace(file, content):
    if content is None:
        file.unlink(missing_ok=True)
        file.mkdir()
    else:
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/last.ckpt", "record.json", "metrics.csv"])
def test_every_file_of_a_run(name, finished_run, tries, tmp_path, capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in share(CONTENTS.values(), tries):
        folder = tmp_path / "run"
        shutil.copytree(finished_run, folder)
        replace(folder / name, content)
        assert outcome(["fit", "--resume", folder], capsys)[0] == 2
        assert (folder / "checkpoints").is_dir()
        shutil.rmtree(folder)
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < GROWTH


def test_every_setting_of_a_run(finished_run, tries, tmp_path, capsys):
    """Another value is refused, differs from the run's, or is accepted: then the run is finished."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    for number, name in share(enumerate(settings), tries):
        for value in (OTHER_VALUES[number % len(OTHER_VALUES)], OTHER_VALUES[(number + 3) % 10]):
            (folder / "config.yaml").write_text(yaml.safe_dump(settings | {name: value}))
            assert outcome(["fit", "--resume", folder], capsys)[0] == 2, (name, value)


FILES = ("comparison.yaml", "comparison.json", "runs/none-seed0/record.json", "pictures/cams.json",
         "runs/cutmix-seed0/evaluation.json")  # fmt: skip


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("comparisons") / "all", seeds=1)


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_comparison(name, comparison, tries, tmp_path, capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    codes = []
    for content in share(CONTENTS.values(), tries):
        folder = tmp_path / "all"
        shutil.copytree(comparison, folder)
        replace(folder / name, content)
        codes.append(outcome(["report", folder], capsys)[0])
        shutil.rmtree(folder)
    assert set(codes) <= {0, 2}
    if name not in ("comparison.json", "pictures/cams.json"):  # which are written again, or left out
        assert codes.count(2) >= len(codes) - 3
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < GROWTH


@pytest.mark.parametrize("name", FILES)
def test_every_entry_of_a_comparison(name, comparison, tries, tmp_path, capsys):
    folder = tmp_path / "all"
    shutil.copytree(comparison, folder)
    if name == "comparison.json":
        shutil.rmtree(folder / "runs")
        (folder / "comparison.yaml").unlink()
    is_yaml = name.endswith(".yaml")
    read, write = (yaml.safe_load, yaml.safe_dump) if is_yaml else (json.loads, json.dumps)
    content = read((folder / name).read_text())
    for number, key in share(enumerate(content), tries):
        for value in (OTHER_VALUES[number % 10], OTHER_VALUES[(number + 7) % 10]):
            (folder / name).write_text(write(content | {key: value}))
            assert outcome(["report", folder], capsys)[0] in (0, 2), (key, value)
        (folder / name).write_text(write({k: v for k, v in content.items() if k != key}))
        assert outcome(["report", folder], capsys)[0] in (0, 2), key


def test_a_folder_in_the_place_of_a_file_that_a_run_writes(data, tmp_path, capsys):
    """Found before training, not after it."""
    (tmp_path / "run" / "record.json").mkdir(parents=True)
    words = ["fit", "--data", data, "--out", tmp_path / "run", *FAST]
    assert "already exists" in outcome(words, capsys)[1]


TRAINERS = {
    "function": {"callbacks": [{"class_path": "LambdaCallback",
                                "init_args": {"on_fit_start": "os.system"}}]},
    "full name": {"callbacks": {"class_path": "lightning.pytorch.callbacks.LambdaCallback",
                                "init_args": {"on_train_start": "os.system"}}},
    "pruning": {"callbacks": [{"class_path": "ModelPruning", "init_args": {"pruning_fn": "EVIL"}}]},
    "class": {"callbacks": [{"class_path": "EVIL"}]},
    "word": {"callbacks": ["EVIL"]},
    "one": {"callbacks": "EVIL"},
    "appended": {"callbacks+": [{"class_path": "EVIL"}]},
    "extra": {"callbacks": [{"class_path": "EarlyStopping", "dict_kwargs": {"monitor": "EVIL"}}]},
    "argument": {"callbacks": [{"class_path": "RichProgressBar", "init_args": {"theme": "EVIL"}}]},
    "inner": {"plugins": [{"class_path": "AsyncCheckpointIO",
                           "init_args": {"checkpoint_io": {"class_path": "EVIL"}}}]},
    "hook": {"strategy": {"class_path": "DDPStrategy", "init_args": {"ddp_comm_hook": "EVIL"}}},
    "more": {"strategy": {"class_path": "DDPStrategy", "init_args": {"static_graph": "EVIL"}}},
    "strategy": {"strategy": "EVIL"},
    "accelerator": {"accelerator": {"class_path": "EVIL"}},
    "logger": {"logger": [True, {"class_path": "EVIL"}]},
    "profiler": {"profiler": "EVIL"},
    "trace": {"profiler": {"class_path": "PyTorchProfiler", "init_args": {"on_trace_ready": "EVIL"}}},
    "module": {"callbacks": [{"class_path": "lightning.pytorch.callbacks.lambda_function.os.system"}]},
    "lightning's other": {"callbacks": [{"class_path": "lightning.pytorch.cli.LightningCLI"}]},
    "elsewhere": {"max_time": {"class_path": "EVIL"}},
}  # fmt: skip
"""Options of the Trainer that would import or call something; EVIL is a class of a module on the path."""
ALLOWED = [
    {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "acc1", "patience": 3}}]},
    {"callbacks": "lightning.pytorch.callbacks.RichProgressBar", "profiler": "simple"},
    {"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs.of/run"}}},
    {"strategy": {"class_path": "DDPStrategy", "init_args": {"find_unused_parameters": True}}},
    {"strategy": "ddp", "accelerator": "cpu", "plugins": [{"class_path": "TorchCheckpointIO"}]},
    {"plugins": ["lightning.fabric.plugins.environments.LightningEnvironment"], "limit_val_batches": 0.5},
]


def with_evil(value, evil):
    return json.loads(json.dumps(value).replace("EVIL", evil))


@pytest.mark.parametrize("name", TRAINERS)
def test_settings_name_no_foreign_class(name, evil, finished_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    file = folder / "config.yaml"
    trainer = with_evil(TRAINERS[name], evil)
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"trainer": trainer}))
    for words in (["fit", "--resume", folder], ["fit", "--config", file, "--out", tmp_path / "new"]):
        code, line = outcome(words, capsys)
        assert code == 2
        assert str(file) in line
        assert "--trust-config" in line or "Trainer" in line or "--trainer" in line
    grid = tmp_path / "grid.yaml"
    for settings in ({"settings": {"trainer": trainer}}, {"methods": {"x": {"trainer": trainer}}}):
        grid.write_text(yaml.safe_dump({**settings, "data": str(tmp_path)}))
        assert outcome(["compare", "--config", grid], capsys)[0] == 2
        with pytest.raises(ValueError, match="--trust-config"):
            CompareSettings(**settings).check_methods()


@pytest.mark.parametrize(
    "settings",
    [
        {"mixer_options": {"prob": {"class_path": "EVIL"}}},
        {"mixer_options": {"class_path": "EVIL", "init_args": {"x": 1}}},
        {"mixer_options": {"prob": "EVIL"}},
        {"trainer": ["EVIL"]},
        {"trainer": "FILE"},
        {"trainer.callbacks": ["EVIL"]},
        {"config": "FILE"},
        {"trust_config": True},
        {"model": "EVIL"},
        {"optimizer": "EVIL"},
        {"mixer": "EVIL"},
        {"task": "evilmodule:Foo"},
    ],
    ids=str,
)
def test_no_other_setting_imports(settings, evil, finished_run, tmp_path, capsys):
    file = finished_run / "config.yaml"
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"callbacks": [evil], "trainer": {"callbacks": [evil]}}))
    settings = json.loads(json.dumps(with_evil(settings, evil)).replace("FILE", str(other)))
    changed = tmp_path / "changed.yaml"
    changed.write_text(
        yaml.safe_dump(yaml.safe_load(file.read_text()) | settings | {"out": str(tmp_path / "new")})
    )
    assert outcome(["fit", "--config", changed], capsys)[0] == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", ALLOWED, ids=str)
def test_what_lightning_ships_needs_no_flag(options):
    check_classes({"settings": {"trainer": options}}, "file")


def test_the_flag_lets_them_in(data, tmp_path, capsys):
    """The callback is called: it stops the run at once."""
    file = tmp_path / "settings.yaml"
    callback = {"class_path": "LambdaCallback", "init_args": {"on_fit_start": "builtins.exit"}}
    file.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    words = ["fit", "--config", file, "--data", data, "--out", tmp_path / "run", *FAST]
    assert outcome(words, capsys)[0] == 2
    code, line = outcome([*words, "--trust-config"], capsys)
    assert "trust" not in line
    assert code != 2 or "cannot create" not in line


def test_limits_of_yaml():
    table = parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n", "file")
    assert table["b"] == {"x": 1, "y": 2}
    assert table["c"] == [{"x": 1}] * 2
    within = "a: " + "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2)
    assert parse_yaml(within, "file")
    with pytest.raises(ValueError, match="nested deeper"):
        parse_yaml("a: [" + "[" * DEEPEST + "]" * DEEPEST + "]", "file")
    row = "a: &a [" + ",".join(["1"] * 999) + "]\nb: ["
    assert parse_yaml(row + ",".join(["*a"] * (MOST_VALUES // 1000 - 2)) + "]", "file")
    with pytest.raises(ValueError, match="more than"):
        parse_yaml(row + ",".join(["*a"] * (MOST_VALUES // 1000 + 1)) + "]", "file")
