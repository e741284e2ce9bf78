"""The table of commands: what is imported for which, how help and errors look, and how commands end."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from recursivemix import __version__
from recursivemix.cli import main
from recursivemix.cli.dispatch import COMMANDS, GROUPS, parse
from recursivemix.cli.errors import LONGEST, one_line
from recursivemix.tasks.settings import ClassificationSettings

HEAVY = {
    "torch",
    "lightning",
    "timm",
    "torchvision",
    "torchmetrics",
    "numpy",
    "scipy",
    "sklearn",
    "PIL",
    "matplotlib",
    "transformers",
    "starlette",
    "uvicorn",
}


def imported(*words, among=HEAVY):
    """The packages that a command imports, its exit code and what it prints."""
    code = (
        "import sys\nfrom recursivemix.cli import main\n"
        f"try:\n    code = main({list(words)!r})\nexcept SystemExit as end:\n    code = end.code\n"
        f"print('imported', code, *({among!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *printed, last = done.stdout.splitlines()
    _, exit_code, *names = last.split()
    return names, exit_code, "\n".join(printed)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["transfer", "--help"]], ids=" ".join)
def test_the_overview_imports_nothing(words):
    names, code, printed = imported(*words, among=HEAVY | {"jsonargparse", "yaml", "rich"})
    assert (names, code) == ([], "0")
    assert printed.startswith(("usage: recursivemix ", "recursivemix "))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_needs_no_torch(name):
    names, code, printed = imported(*name.split(), "--help")
    assert (names, code) == ([], "0")
    assert printed.startswith(f"usage: recursivemix {name} ")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["recipes"], "0"),
        (["recipes", "cifar100-resnet18"], "0"),
        (["fit", "--help-all"], "0"),
        (["fit", "--lr", "-1"], "2"),
        (["fit", "--epochs", "many"], "2"),
        (["fit", "--recipe", "cifar100-resnet18", "--print-config"], "0"),
        (["transfer", "detection", "--help-all"], "0"),
        (["evaluate", "--images", "3"], "2"),
    ],
)
def test_what_needs_no_run_needs_no_torch(words, code):
    assert imported(*words)[:2] == ([], code)


def test_options_of_the_trainer_need_lightning():
    names, _, printed = imported("fit", "--help-trainer")
    assert "lightning" in names
    assert "--trainer.max-epochs" in printed


def shown(capsys, *words, code=0):
    """What a command prints that ends with `SystemExit`."""
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == code
    return capsys.readouterr().out


def test_every_command_is_in_the_overview(capsys):
    printed = shown(capsys, "--help")
    for commands in GROUPS.values():
        for name, (_, line) in commands.items():
            assert f"  {name} " in printed
            assert line in printed
    assert max(map(len, printed.splitlines())) <= 100
    lines = [line for line in shown(capsys, "transfer", code=2).splitlines() if line.startswith("  ")]
    assert lines
    assert all(line.startswith("  transfer ") for line in lines)


@pytest.mark.parametrize("words", [["--image-size", "64"], ["--config", "image_size: 64\n"]])
def test_a_file_may_hold_one_value_of_a_list_as_a_flag_may(words):
    settings = parse(["transfer", "detection", *words]).arguments["settings"]
    assert settings.image_size == [64]


def test_version(capsys):
    assert shown(capsys, "--version") == f"recursivemix {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fti"], "unknown command 'fti'; did you mean fit?"),
        (["transfer", "detect"], "unknown command 'transfer detect'; did you mean transfer detection?"),
        (["--verson"], "unknown command '--verson'; recursivemix --help lists the commands"),
        (["recipes", "cifar100-resnet1"], "did you mean cifar100-resnet18"),
    ],
)
def test_a_mistyped_name_gives_the_nearest(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "many"], "--epochs must be int, got many"),
        (["--epochs"], "--epochs needs a value"),
        (["--epoch-count", "3"], "unrecognized arguments: --epoch-count 3; did you mean --epochs?"),
        (["--schedule", "cosin"], "--schedule must be one of cosine, step, poly, constant, got cosin"),
        (["--crop", "half"], "--crop must be one of pad, resized, none, got half"),
        (["--auto-augment", "rand"], "trivialaugment, augmix, 3-augment, got rand"),
        (
            ["--config", "loggers: csv\n"],
            "--loggers must be one of wandb, mlflow or a list of them, got csv",
        ),
        (["--config", "nowhere.yaml"], "--config: there is no file "),
        (["--config", "epoks: 3\nlr: 1"], "Option epoks is not accepted"),
        (["--mixer-options", "5"], "--mixer-options must be dict, got 5"),
        (["--crop-scale", "0.5"], "--crop-scale must be 2 numbers, got [0.5]"),
        (["one", "two"], "unrecognized arguments: one two"),
    ],
)
def test_a_wrong_option_is_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("recursivemix fit: error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "settings", "methods"),
    [
        (
            ["--settings.trainer.limit-train-batches", "2", "--settings.trainer.max-steps=3"],
            {"trainer": {"limit_train_batches": 2, "max_steps": 3}},
            {},
        ),
        (
            ["--settings.mixer-options", "{prob: 0.5}", "--settings.mixer-options.alpha", "1e-3"],
            {"mixer_options": {"prob": 0.5, "alpha": 0.001}},
            {},
        ),
        (
            ["--methods.no-mix.mixer", "none", "--methods.no-mix.lr", "0.3", "--settings.lr", "0.1"],
            {"lr": 0.1},
            {"no-mix": {"mixer": "none", "lr": 0.3}},
        ),
        (
            ["--methods", "{a: {mixer: mixup}}", "--methods.a.mixer-options.alpha", "0.2"],
            {},
            {"a": {"mixer": "mixup", "mixer_options": {"alpha": 0.2}}},
        ),
        (
            ["--config", "methods: {a: {lr: 1}}\nsettings: {clip: 1}", "--methods.a.mixer", "mixup"],
            {"clip": 1},
            {"a": {"lr": 1, "mixer": "mixup"}},
        ),
        (["--settings.trainer.max-steps", "3", "--settings.trainer", "{}"], {"trainer": {}}, {}),
        (["--settings", "{lr: 1}", "--settings.clip", "2"], {"lr": 1, "clip": 2}, {}),
    ],
)
def test_options_within_tables(words, settings, methods):
    given = parse(["compare", *words]).arguments["settings"]
    assert (given.settings, given.methods) == (settings, methods)


def test_lists_are_shown_as_one_writes_them(capsys):
    assert "  --checkpoint [PATH,...]  " in shown(capsys, "predict", "--help")
    everything = shown(capsys, "transfer", "segmentation", "--help-all")
    assert "  --milestones [X,...]  " in everything
    assert "  --scales X X  " in everything


def test_options_of_runs_begin_with_settings(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--table", "labels.csv"])
    assert capsys.readouterr().err.endswith(
        "--table labels.csv; options of the runs begin with --settings, such as --settings.table\n"
    )


def test_an_option_of_another_task_names_its_command(capsys):
    with pytest.raises(SystemExit):
        main(["transfer", "detection", "--val-split", "0.2"])
    assert capsys.readouterr().err.endswith("; --val-split is an option of recursivemix fit\n")
    with pytest.raises(SystemExit):
        main(["fit", "--frozen-stages", "1"])
    commands = "transfer detection, transfer instance, transfer segmentation"
    assert capsys.readouterr().err.endswith(f"; --frozen-stages is an option of recursivemix {commands}\n")


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_a_recipe_is_no_option_of_runs(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--recipe", "finetune"])
    error = capsys.readouterr().err
    assert error.endswith(
        "; recursivemix recipes NAME prints a recipe, whose settings go under --settings\n"
    )


def test_every_option_keeps_its_type(capsys):
    """An option whose type got lost would take any text, or fail where it is used."""
    types = get_type_hints(ClassificationSettings)
    checked = 0
    for item in fields(ClassificationSettings):
        if {str, Path} & {types[item.name], *get_args(types[item.name])}:
            continue  # takes any text
        with pytest.raises(SystemExit):
            parse(["fit", f"--{item.name}=[no value]"])
        error = capsys.readouterr().err
        assert error.startswith(f"recursivemix fit: error: --{item.name.replace('_', '-')} must be ")
        checked += 1
    assert checked > 30


def test_lists_are_written_as_one_likes():
    expected = [60.0, 120.5]
    for words in (
        ["--milestones", "[60, 120.5]"],
        ["--milestones", "60", "120.5"],
        ["--milestones", "60", "--milestones=120.5"],
        ["--milestones+", "60", "--milestones+=120.5"],
    ):
        call = parse(["fit", "--schedule", "step", *words, "--compile"])
        assert call.arguments["settings"].milestones == expected
        assert call.arguments["settings"].compile
    for words in (["--crop-scale", "[0.4, 1]"], ["--crop-scale", "0.4", "1"]):
        call = parse(["fit", "--crop", "resized", *words])
        assert call.arguments["settings"].crop_scale == (0.4, 1.0)
    call = parse(["explain", "--checkpoint", "1.ckpt", "--checkpoint=b,c.ckpt", "--classes", "3"])
    assert [str(path) for path in call.arguments["checkpoint"]] == ["1.ckpt", "b,c.ckpt"]
    assert call.arguments["classes"] == ["3"]


def test_flags_override_a_recipe_wherever_they_stand():
    for words in (["--epochs", "3", "--recipe"], ["--recipe"]):
        call = parse(["fit", *words, "cifar100-resnet18", "--mixer", "cutmix", "--lr=0.5"])
        settings = call.arguments["settings"]
        assert (settings.model, settings.mixer, settings.lr) == ("resnet18", "cutmix", 0.5)
        assert settings.epochs == (3 if "--epochs" in words else 200)
        assert settings.mixer_options == {"alpha": 1.0, "prob": 0.5}


def test_trainer_options_are_those_that_differ_from_the_defaults():
    call = parse(["fit", "--trainer.max-epochs", "1", "--trainer.num-nodes=1"])
    assert call.arguments["trainer"] == {"max_epochs": 1}
    call = parse(["fit", "--config", "trainer: {limit_train_batches: 2, logger: null}\nepochs: 4"])
    assert call.arguments["trainer"] == {"limit_train_batches": 2}
    assert call.arguments["settings"].epochs == 4
    assert parse(["fit"]).arguments["trainer"] == {}


def test_a_pipe_that_closes_early_is_no_traceback():
    command = f"{sys.executable} -m recursivemix.cli recipes cifar100-resnet18 | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("# CIFAR-100")
    assert done.stderr == ""


def test_output_that_cannot_be_flushed_is_no_traceback():
    """Small outputs meet the closed pipe when they are flushed at the end."""
    command = [sys.executable, "-m", "recursivemix.cli", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert errors == ""


def test_a_missing_package_names_its_extra():
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "from recursivemix.cli import main\nsys.exit(main(['fit', '--epochs', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "recursivemix fit: error: lightning is missing: pip install 'recursivemix[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("recursivemix.cli.recipes.recipe_names", interrupted)
    assert main(["recipes"]) == 130
    assert capsys.readouterr().err == "recursivemix recipes: interrupted\n"


def test_the_old_name_of_evaluate(tmp_path, capsys):
    assert main(["test", "--checkpoint", str(tmp_path / "none.ckpt")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "recursivemix test is now recursivemix evaluate"
    assert second.startswith("recursivemix test: error: there is no checkpoint")


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_a_foreign_class_among_the_settings_of_runs_is_refused(command, tmp_path, capsys):
    settings = "{callbacks: [{class_path: os.system}]}"
    out = tmp_path / "out"
    assert main([command, "--epochs", "1", "--out", str(out), "--settings.trainer", settings]) == 2
    message = capsys.readouterr().err
    assert "trainer.callbacks names 'os.system'" in message
    assert "--trust-config" in message
    assert not out.exists()


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = one_line(ValueError(f"table.csv, row 3: the label '{'x' * 10**5}' is in one split; fix the row"))
    assert text.startswith("table.csv, row 3: the label 'xxx")
    assert text.endswith("xxx' is in one split; fix the row")
    assert " ... " in text
    assert len(text) < LONGEST + 10
