"""What is published holds every file; nothing is unpickled, and no network is used unasked."""

import ast
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from compare.made_up import write_comparison
from recursivemix.cli import main
from samples import FAST

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_nothing_is_unpickled_or_evaluated(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {name.name.partition(".")[0] for name in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in FORBIDDEN_MODULES
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name not in FORBIDDEN_CALLS
            if name.endswith("torch.load"):
                assert options.get("weights_only") == "True", ast.unparse(node)
            if name.endswith(("np.load", "numpy.load")):
                assert options.get("allow_pickle") == "False", ast.unparse(node)
            assert name not in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"), ast.unparse(node)
            assert options.get("shell") != "True", ast.unparse(node)
            assert name not in ("tempfile.mktemp", "os.system", "os.popen"), ast.unparse(node)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The sdist and the wheel of a copy of the tree, built without the network."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted((copy / "dist").iterdir())


def test_the_wheel_holds_every_file(published):
    wheel, sdist = published
    assert (wheel.suffix, sdist.suffixes[-2:]) == (".whl", [".tar", ".gz"])
    package = ROOT / "src" / "recursivemix"
    expected = {
        str(path.relative_to(package.parent))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert any(name.endswith(".yaml") for name in held)
    assert "recursivemix/py.typed" in held


def test_its_description_is_fit_to_be_published(published):
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, published)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.filterwarnings("ignore")
def test_no_command_uses_the_network_unasked(image_root, tmp_path, monkeypatch):
    """Without --download, not even an attempt that is given up."""
    asked = []

    def refuse(*words, **options):
        asked.append(words)
        raise OSError("the network is cut off")

    def cut(original):
        def local_only(self, *words):  # processes that read images use local sockets
            return original(self, *words) if self.family == socket.AF_UNIX else refuse(*words)

        return local_only

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, cut(getattr(socket.socket, name)))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    run = tmp_path / "run"
    last = str(run / "checkpoints" / "last.ckpt")
    data = ["--data", str(image_root)]
    assert main(["fit", *data, "--out", str(run), *FAST, "--epochs", "1", "--model", "resnet10t"]) == 0
    assert main(["evaluate", "--checkpoint", last, *data, "--device", "cpu"]) == 0
    assert main(["predict", "--checkpoint", last, "--images", str(image_root), "--device", "cpu"]) == 0
    assert (
        main(
            [
                "export",
                "--checkpoint",
                last,
                "--to",
                "timm",
                "--out",
                str(tmp_path / "net"),
                "--allow-mismatch",
            ]
        )
        == 0
    )
    assert main(["report", str(write_comparison(tmp_path / "all", seeds=1))]) == 0
    grid = ["--mixers", "none", "--seeds", "1", "--epochs", "1", "--settings.device", "cpu"]
    assert main(["compare", *data, *grid, "--dry-run", "--out", str(tmp_path / "grid")]) == 0
    assert asked == []
