"""The house: what imports what, and that the docstrings tell the arguments there are."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import recursivemix

SOURCE = Path(recursivemix.__file__).parent
MODELS = [SOURCE / "models" / "region.py", SOURCE / "models" / "feature_map.py"]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LIBRARY = [*(SOURCE / "mixing").glob("*.py"), *MODELS]
# A folder uses only folders above it.
ORDER = [
    "mixing",
    "models",
    "data",
    "training",
    "tasks",
    "recipes",
    "export",
    "evaluation",
    "report",
    "compare",
    "tune",
    "explain",
    "cli",
]


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    package = ["recursivemix", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.name)
def test_the_drop_in_part_needs_torch_alone(path):
    allowed = set(sys.stdlib_module_names) | {"torch"}
    for name in imported(path):
        own = name.startswith(("recursivemix.mixing", "recursivemix.models.feature_map"))
        assert own or name.split(".")[0] in allowed, name


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_folder_uses_only_folders_above_it(path):
    stage = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if stage not in ORDER:
        return  # the public names
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "recursivemix" and len(parts) > 1:
            assert ORDER.index(parts[1]) <= ORDER.index(stage), f"{path} imports {name}"


def imported_by(code: str, *packages: str) -> set[str]:
    """Those of the packages that a fresh interpreter has imported after it ran the code."""
    code += f"\nimport sys\nprint(*({set(packages)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


EXTRAS = ("lightning", "timm", "torchvision", "torchmetrics", "jsonargparse", "sklearn")
LIBRARY_NAMES = sorted({*recursivemix.__all__} - {"load"})
"""All public names but `load`, which reads checkpoints of the trainer."""


def test_importing_imports_nothing_until_a_name_is_used():
    assert imported_by("import recursivemix; recursivemix.__version__", "torch", *EXTRAS) == set()


@pytest.mark.slow
def test_the_library_needs_torch_alone():
    code = f"from recursivemix import {', '.join(LIBRARY_NAMES)}"
    assert imported_by(code, "torch", *EXTRAS) == {"torch"}


@pytest.mark.slow
def test_the_library_does_not_import_the_compiler():
    """`torch._dynamo` takes as long to import as torch itself."""
    assert imported_by("import torch", "torch._dynamo") == set()
    code = f"from recursivemix import {', '.join(LIBRARY_NAMES)}"
    assert imported_by(code, "torch._dynamo") == set()


def test_lazy_names_are_the_names_of_their_modules():
    """The names for type checkers, those of ``__all__`` and those found at run time are the same."""
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    names = {alias.name: node.module for node in imports for alias in node.names}
    assert {*names, "__version__"} == {*recursivemix.__all__}
    for name, module in names.items():
        assert getattr(recursivemix, name) is getattr(importlib.import_module(module), name)
    assert {*recursivemix.__all__} <= {*dir(recursivemix)}
    assert recursivemix.mixing.MIXERS is recursivemix.MIXERS
    with pytest.raises(AttributeError, match="module 'recursivemix' has no attribute 'RecursveMix'"):
        _ = recursivemix.RecursveMix


PUBLIC = [
    getattr(recursivemix, name) for name in recursivemix.__all__ if name not in ("MIXERS", "__version__")
]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda t: t.__name__)
def test_docstrings_tell_every_argument(thing):
    """Each argument of a public constructor or function stands in its docstring."""
    document = inspect.getdoc(thing)
    assert document
    document += inspect.getdoc(recursivemix.Mixer)  # what the mixers share is told there
    if hasattr(thing, "_fields") or hasattr(thing, "__dataclass_fields__"):
        return  # every field carries its own
    parameters = inspect.signature(thing).parameters.values()
    for parameter in parameters:
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in ("num_classes", "name"):
            assert parameter.name in document


def test_version_is_the_packages():
    from importlib.metadata import version

    assert version("recursivemix") == recursivemix.__version__


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_are_short(path):
    """At most 400 lines per file and 60 per function, docstrings included."""
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, FUNCTIONS)]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 60}
    assert long == {}
