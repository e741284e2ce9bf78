"""How long a campaign of random attacks is: CAMPAIGN_TRIES of each kind, from CAMPAIGN_SEED."""

import os

import pytest


@pytest.fixture(scope="session")
def tries() -> int:
    """Attacks of each kind: few in the test suite, thousands in a campaign."""
    return int(os.environ.get("CAMPAIGN_TRIES", "100"))


@pytest.fixture(scope="session")
def seed() -> int:
    """Seed of all attacks; a failure names its own number, counted from it."""
    return int(os.environ.get("CAMPAIGN_SEED", "0"))
