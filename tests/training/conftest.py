"""Runs that several tests compare with: each is trained once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samples import write_image_root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images that is only read, see `write_image_root`."""
    return write_image_root(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="session")
def uninterrupted(
    images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[dict[str, Any], Path]]:
    """The last checkpoint and the folder of an uninterrupted run on these images, by its settings."""
    from test_resume import config, trained

    made: dict[str, tuple[dict[str, Any], Path]] = {}

    def get(**settings: object) -> tuple[dict[str, Any], Path]:
        key = repr(settings)
        if key not in made:
            folder = tmp_path_factory.mktemp("uninterrupted") / "whole"
            made[key] = trained(config(images, folder, **settings)), folder
        return made[key]

    return get
