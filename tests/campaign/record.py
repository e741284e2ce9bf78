"""Make one record of what the tests of a campaign noted.

    python tests/campaign/record.py build/campaign --out results/campaign.json

The folder holds a file for each kind of attack, and ``started``, a file as old as the campaign.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from recursivemix.data.atomic_write import write_json
from recursivemix.training.environment import environment


def campaign_record(folder: Path) -> dict[str, Any]:
    """Return the environment, the length and the figures of a campaign.

    Args:
        folder: that CAMPAIGN_RECORD named.

    Raises:
        SystemExit: it holds no figures.
    """
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not rows:
        raise SystemExit(f"{folder} holds no figures: run make campaign")
    return {
        "benchmark": "campaign",
        **environment(gpu=False),
        "command": ["make", "campaign"],
        "seed": int(os.environ.get("CAMPAIGN_SEED", "0")),
        "tries": int(os.environ.get("CAMPAIGN_TRIES", "1000")),
        "minutes": round((time.time() - (folder / "started").stat().st_mtime) / 60, 1),
        "load": round(os.getloadavg()[2], 1),
        "tried": sum(row["tried"] for row in rows),
        "held": sum(row["held"] for row in rows),
        "rows": rows,
    }


def main() -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the figures")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    options = parser.parse_args()
    record = campaign_record(options.folder)
    write_json(options.out, record)
    print(f"{record['tried']} tried, {record['held']} held, {record['minutes']} minutes: {options.out}")


if __name__ == "__main__":
    main()
