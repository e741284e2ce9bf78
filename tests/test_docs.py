"""README and docs tell the truth: quotes are the files', code runs, tables are the records'."""

import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CARDS = sorted((ROOT / "docs" / "methods").glob("*.md"))
QUOTE = re.compile(r"<!-- from (\S+) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_quotes_are_the_files(page):
    for path, code in QUOTE.findall(page.read_text()):
        file = (ROOT / path).read_text()
        indented = [textwrap.indent(code, " " * depth) for depth in (0, 4, 8)]
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


def test_tables_are_what_the_records_say():
    command = [sys.executable, str(ROOT / "docs" / "make_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
