"""Check the file that a picture is written to. Standard library only."""

from pathlib import Path

SUFFIXES = (".png", ".html", ".gif")


def check_out(path: Path, allowed: tuple[str, ...] = SUFFIXES) -> None:
    """Raise ValueError unless ``path`` is a file with an allowed suffix."""
    if path.suffix.lower() not in allowed:
        raise ValueError(f"--out must end in {' or '.join(allowed)}, got {path}")
    if path.is_dir():
        raise ValueError(f"--out: {path} is a folder")
