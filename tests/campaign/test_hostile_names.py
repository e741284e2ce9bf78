"""Names from data and command lines stay text in every output: no markup, formulas, bidi controls."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from compare.made_up import write_comparison
from explain.served import ask, served
from recursivemix.cli import main
from recursivemix.data.printable import HIDDEN
from recursivemix.explain.activation import load_named
from recursivemix.explain.studio import Studio
from recursivemix.models.checkpoint_file import write_checkpoint
from recursivemix.report.safe_cell import FORMULA
from recursivemix.report.table import escaped
from recursivemix.training.plain_file import read_json
from samples import FAST, trained_content, write_images

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [
    "<script>window.broken=1<script>", '"><img src=x onerror=window.broken=1>', "'onload='window.broken=1",
    "a&b<b>&lt;", "=cmd|'c calc'!A0", "+1", "-2+3", "@SUM(A1)", "\u202egpj.exe", "\u2066x\u2069\u200f",
    "$\\frac{$", "a$b$_^{c}", "[red]x[bold]", "[end]", "{{ 7*7 }}", "{% raw %}", "a\x1b[2Jb\x07",
    "tab\there", "new\nline", "\\input{x}%$#_&~", "café 猫 🐈", "x" * 100, " leading", "_hidden",
    "c\x85d\u2028e", "-->", "\uff1dfull", "\udcff\udcfe",
]  # fmt: skip
"""Names that a file may have on Linux; the last one is of bytes that are no UTF-8."""
TEXTS = [*NAMES[:-1], "</script><script>window.broken=1</script>", "</style>", "[/bold]", "a/../b"]
"""Names that a label may have besides."""


class Elements(HTMLParser):
    """Counts the elements of a page and collects their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = {}, set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}


def check_page(page, harmless):
    """The elements and attributes are those of the same page with harmless names; nothing is hidden."""
    found, expected = Elements(page), Elements(harmless)
    assert found.tags == expected.tags
    assert found.attributes == expected.attributes
    page = page.replace(get_plotlyjs(), "")
    hidden = HIDDEN.search(page)
    assert hidden is None, page[hidden.start() - 50 : hidden.end() + 50]
    page.encode()


def check_csv(text):
    rows = list(csv.reader(text.splitlines(keepends=True)))
    for row in rows[1:]:
        for cell in row:
            if not re.fullmatch(r"-?[0-9.e+-]+", cell):  # a number
                assert not cell.startswith(FORMULA), cell
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of images whose classes and files have hostile names."""
    root = tmp_path_factory.mktemp("hostile") / "=data\u202e<b>"
    for number, name in enumerate(NAMES):
        write_images(root / "train" / name, 2, hue=number)
        write_images(root / "val" / name, 1, hue=number)
    for number, name in enumerate(NAMES):
        (root / "val" / NAMES[0] / "0.png").rename(root / "val" / NAMES[0] / f"{name}.png")
        write_images(root / "val" / NAMES[0], 1, hue=number)
    return root


def checkpoint_of(folder, names, task="classification"):
    path = folder / f"{task}.ckpt"
    write_checkpoint(trained_content(task, classes=list(names)), path)
    return path


def run(words, capsys):
    capsys.readouterr()
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def test_a_run(data, tmp_path, capsys):
    """Its pictures, tables and files; the name of its folder is hostile too."""
    out = tmp_path / "[/bold] <b>=run\u202e"
    printed = run(["fit", "--data", data, "--out", out, *FAST, "--epochs", "1"], capsys)
    assert "[/bold]" in printed
    assert (out / "mixed_batches.png").stat().st_size > 5000
    record = read_json(out / "record.json")
    assert set(record["data"]["classes"]) == set(NAMES)
    assert main(["fit", "--resume", str(out)]) == 2
    line = capsys.readouterr().err
    assert "is finished" in line
    assert not HIDDEN.search(line.strip())


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_predictions(task, kind, data, tmp_path, capsys):
    path = checkpoint_of(tmp_path, TEXTS if task == "classification" else TEXTS[:2], task)
    out = tmp_path / f"table.{kind}"
    words = ["predict", "--checkpoint", path, "--images", data / "val" / NAMES[0], "--out", out]
    more = ["--maps", tmp_path / "maps"] if task == "segmentation" else []
    more += ["--pictures", tmp_path / "drawn"] if task != "classification" else []
    run([*words, *more, "--workers", "0", "--device", "cpu"], capsys)
    if kind == "csv":
        rows = check_csv(out.read_bytes().decode())
        assert len(rows) > len(NAMES)
    elif kind == "json":
        content = json.loads(out.read_text())
        names = [
            one.get("image") or one.get("file_name")
            for one in content.get("predictions", content.get("images"))
        ]
        assert len(names) == len(NAMES) + 1
    if more and task == "segmentation":
        assert len((tmp_path / "maps" / "classes.txt").read_text().splitlines()) == 2
    if more:
        assert len(list((tmp_path / "drawn").rglob("*.png"))) == len(NAMES) + 1


def test_predictions_on_standard_output(data, tmp_path, capfd):
    path = checkpoint_of(tmp_path, TEXTS)
    words = ["predict", "--checkpoint", path, "--images", data / "val" / NAMES[0], "--workers", "0"]
    capfd.readouterr()
    assert main([str(word) for word in words]) == 0
    check_csv(capfd.readouterr().out)


def test_label_maps_of_classes_with_newlines(tmp_path, data, capsys):
    path = checkpoint_of(tmp_path, ["new\nline", "\udcff"], "segmentation")
    words = [
        "predict",
        "--checkpoint",
        path,
        "--images",
        data / "val" / NAMES[1],
        "--out",
        tmp_path / "a.csv",
    ]
    run([*words, "--maps", tmp_path / "maps", "--workers", "0"], capsys)
    assert len((tmp_path / "maps" / "classes.txt").read_text().splitlines()) == 2


def changed(value, names):
    """A record with its class names replaced in order."""
    if isinstance(value, dict):
        return {names.get(key, key): changed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [changed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("shift", range(0, len(TEXTS), 4))
def test_the_page_of_a_comparison(shift, tmp_path, capsys):
    """All strings of the record that come from data: classes, files, labels, commands, options."""
    from compare.made_up import CLASSES, LONG

    pages, tables = [], []
    for name in ("plain", "hostile"):
        folder = write_comparison(tmp_path / name, seeds=1)
        file = folder / "comparison.json"
        record = json.loads(file.read_text())
        texts = list("abcdefghi")
        if name == "hostile":
            texts = [TEXTS[(shift + i) % len(TEXTS)] for i in range(9)]
        old = [*CLASSES, "my <photos>", "resnet20", "0123abc", "recursivemix", "3.11", LONG]
        names = dict(zip(old, texts, strict=True))
        for other in folder.rglob("*.json"):
            other.write_text(json.dumps(changed(json.loads(other.read_text()), names)))
        record = json.loads(file.read_text())
        record["config_yaml"] = "".join(texts)
        file.write_text(json.dumps(record))
        (folder / "comparison.yaml").unlink()
        words = ["report", folder, "--csv", tmp_path / "t.csv", "--latex", tmp_path / "t.tex"]
        run(words, capsys)
        pages.append((folder / "page.html").read_text())
        tables.append(((tmp_path / "t.csv").read_text(), (tmp_path / "t.tex").read_text()))
    check_page(pages[1], pages[0])
    check_csv(tables[1][0])
    assert tables[1][1].count("\\\\\n") == tables[0][1].count("\\\\\n")


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_latex(text):
    """What is left of a name are letters and known commands, on one line."""
    commands = r"\\text(backslash|asciitilde|asciicircum|less|greater|bar|quotedbl)\{\}|\\[&%$#_{}]"
    left = re.sub(commands, "", escaped(text))
    assert not set(left) & set("\\&%$#_{}~^\n\r")
    assert not HIDDEN.search(left)


def test_previews_and_maps(data, tmp_path, capsys):
    pages = []
    for kind in ("png", "html", "gif"):
        out = tmp_path / f"preview.{kind}"
        run(["preview", "--data", data, "--steps", "2", "--samples", "2", "--out", out], capsys)
        assert out.stat().st_size > 1000
    pages.append((tmp_path / "preview.html").read_text())
    path = checkpoint_of(tmp_path, sorted(NAMES))
    for kind in ("png", "html"):
        words = ["explain", "--checkpoint", path, "--images", data / "val", "--count", "4"]
        words += ["--out", tmp_path / f"e.{kind}"]
        run([*words, "--device", "cpu"], capsys)
    pages.append((tmp_path / "e.html").read_text())
    for page in pages:
        elements = Elements(page)
        assert "onerror" not in elements.attributes
        assert "b" not in elements.tags
        assert not HIDDEN.search(page)


def test_the_studio(tmp_path, data):
    from recursivemix.data.open import open_images
    from recursivemix.tasks.settings import ClassificationSettings

    source = open_images(ClassificationSettings(data=data), 0)
    with served(
        Studio(source, trained=load_named([checkpoint_of(tmp_path, source.classes)], "cpu")[0])
    ) as port:
        for step in (1, 4):
            answer, text = ask(port, f"/mixed?step={step}")
            assert answer.status == 200
            assert not {"script", "b"} & Elements(text).tags.keys()
            assert "onerror" not in Elements(text).attributes
            assert not HIDDEN.search(text)
