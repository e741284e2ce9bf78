"""How long a campaign of random attacks is: CAMPAIGN_TRIES of each kind, from CAMPAIGN_SEED; its record."""

import json
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tries() -> int:
    """Attacks of each kind: few in the test suite, thousands in a campaign."""
    return int(os.environ.get("CAMPAIGN_TRIES", "100"))


@pytest.fixture(scope="session")
def seed() -> int:
    """Seed of all attacks; a failure names its own number, counted from it."""
    return int(os.environ.get("CAMPAIGN_SEED", "0"))


@pytest.fixture
def recorded():
    """A function that notes how many attacks of a kind were tried and held, in CAMPAIGN_RECORD."""

    def note(kind: str, tried: int, held: int) -> None:
        folder = os.environ.get("CAMPAIGN_RECORD")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            path = Path(folder, f"{kind.replace(' ', '-')}.json")
            path.write_text(json.dumps({"kind": kind, "tried": tried, "held": held}))

    return note
