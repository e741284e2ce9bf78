"""README and docs tell the truth: quotes are the files', code runs, tables are the records'."""

import io
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import textwrap
from contextlib import redirect_stdout
from itertools import dropwhile, groupby
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import recursivemix
from recursivemix.cli.dispatch import COMMANDS, main, parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CARDS = sorted((ROOT / "docs" / "methods").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
QUOTE = re.compile(r"<!-- from (\S+) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_quotes_are_the_files(page):
    for path, code in QUOTE.findall(page.read_text()):
        file = (ROOT / path).read_text()
        indented = [textwrap.indent(code, " " * depth) for depth in (0, 4, 8, 12)]
        assert any(form in file for form in indented), f"{page.name} quotes {path} wrongly:\n{code}"


def test_every_example_is_quoted():
    quoted = {path for page in PAGES for path, _ in QUOTE.findall(page.read_text())}
    examples = {f"examples/{p.name}" for p in (ROOT / "examples").glob("*.py")} - {"examples/digits.py"}
    assert quoted == examples


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("card", CARDS, ids=lambda p: p.stem)
def test_the_code_of_a_method_card_runs(card, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    script = tmp_path / "card.py"
    script.write_text(code)
    runpy.run_path(str(script))


def test_every_mixer_has_a_card():
    from recursivemix import MIXERS

    assert {card.stem for card in CARDS} == set(MIXERS)


def test_tables_are_what_the_records_say(python):
    command = [python, str(ROOT / "docs" / "make_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_in_the_site():
    """The navigation names every page once, and nothing else."""
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if "docs" in page.parts]
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(leaves(nav)) == sorted(pages)


def leaves(nav: object) -> list[str]:
    """The files of mkdocs' navigation."""
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves(part)]


def test_every_public_name_is_in_the_api():
    names = re.findall(r"^::: recursivemix\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(set(recursivemix.__all__) - {"__version__"})


def test_the_code_of_the_guide_to_loops_runs(tmp_path, monkeypatch):
    """All of it in one order, as the page says, with a small loader and as the only process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launched = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    digits = runpy.run_path(str(ROOT / "examples" / "digits.py"))
    loader = DataLoader(TensorDataset(torch.rand(32, 3, 32, 32), torch.arange(32) % 10), batch_size=8)
    names = {
        "torch": torch, "NUM_CLASSES": 10, "small_network": digits["small_network"], "loader": loader,
        "test_loader": loader, "epochs": 1, "device": "cpu", "checkpoint": tmp_path / "checkpoint.pt",
    }  # fmt: skip
    page = (ROOT / "docs" / "guides" / "loop.md").read_text()
    code = "\n".join(code for language, code in BLOCK.findall(page) if language == "python")
    try:
        exec(compile(code, "loop.md", "exec"), names)
        assert names["loss"].isfinite()
        assert (names["batch"].lam < 1).any()
        assert names["mixer"].label_smoothing == 0
        assert (tmp_path / "mixer_0.pt").is_file()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def commands(page: Path) -> list[list[str]]:
    """The words after ``recursivemix`` of every shell command of a page that calls it."""
    found = []
    for language, block in BLOCK.findall(page.read_text()):
        if language not in ("", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            for operator, words in groupby(lexer, key=lambda word: word[0] in ";|&<>()"):
                call = list(dropwhile(lambda word: Path(word).name != "recursivemix", words))
                if call and not operator:
                    found.append(call[1:])
    return found


QUOTED = [
    pytest.param(words, id=f"{page.name}: {shlex.join(words)}")
    for page in PAGES
    for words in commands(page)
]


@pytest.mark.parametrize("arguments", QUOTED)
def test_commands_are_understood(arguments, capsys, monkeypatch, tmp_path):
    """Every flag exists and takes that value; nothing is run, so RUN and DIR may stay what they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("recursivemix.training.settings.find_spec", lambda name: name)  # of loggers
    words = list(arguments)
    for option in ("--config", "--resume"):  # files of the reader's
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    try:
        parse(words)
    except SystemExit as end:  # also after --print-config and --help, and then it is 0
        if end.code and words:
            pytest.fail(capsys.readouterr().err)


# Options of torchrun, SLURM, pip and git that pages speak of.
OTHERS = ("--dependency", "--node-rank", "--nodes", "--ntasks-per-node", "--signal")


@pytest.fixture(scope="module")
def known_options():
    """Every option of every command."""
    options = set()
    for name in COMMANDS:
        with pytest.raises(SystemExit), redirect_stdout(io.StringIO()) as printed:
            parse([*name.split(), "--help"])
        if "--help-all" in printed.getvalue():
            with pytest.raises(SystemExit), redirect_stdout(io.StringIO()) as printed:
                parse([*name.split(), "--help-all"])
        options |= set(re.findall(r"--[a-z][\w-]*", printed.getvalue().replace("[no-]", "")))
    return options


def test_the_diagnosis_in_the_guide_is_what_doctor_prints(tmp_path, monkeypatch, capsys):
    """A folder of three colours with a truncated file and two copies."""
    monkeypatch.chdir(tmp_path)
    folder, generator = Path("BAD"), torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("val", 8)):
        for color in ("blue", "green", "red"):
            (folder / split / color).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (32, 40 if i % 3 else 32, 3), generator=generator)
                image = Image.fromarray(pixels.to(torch.uint8).numpy())
                image.save(folder / split / color / f"{i}.png")
    truncated = folder / "train" / "red" / "3.png"
    truncated.write_bytes(truncated.read_bytes()[:1000])
    shutil.copy(folder / "train" / "blue" / "5.png", folder / "val" / "blue" / "copy.png")
    shutil.copy(folder / "train" / "blue" / "6.png", folder / "train" / "green" / "six.png")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor", str(folder)]) == 0
    printed, _, advice = capsys.readouterr().out.partition("mixing: ")
    assert advice
    assert f"```text\n{printed}```" in (ROOT / "docs" / "guides" / "folder.md").read_text()


def test_messages_in_the_guide_to_resuming_are_those_of_the_program():
    guide = " ".join((ROOT / "docs" / "guides" / "resume.md").read_text().split())
    code = ROOT / "src" / "recursivemix" / "cli"
    for file, message in (
        ("running", "; resume with: recursivemix "),
        ("train", "; to resume with them add "),
    ):
        assert message[2:] in (code / f"{file}.py").read_text()
        assert message in guide


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_options_in_sentences_exist(page, known_options):
    for name in re.findall(r"`(--[a-z][\w.-]*\w)", BLOCK.sub("", page.read_text())):
        group = re.match(r"--(mixer-options|optimizer-options|methods|pretrain|settings|trainer)\b", name)
        plain = re.sub(r"^--no-", "--", name)
        assert {name, plain} & known_options or group or name in OTHERS, f"{page.name} speaks of {name}"
