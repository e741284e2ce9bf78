"""The record of a campaign and its table."""

import json
import subprocess
from pathlib import Path

from campaign.record import campaign_record

ROOT = Path(__file__).resolve().parents[2]


def test_figures_become_a_record_and_a_table(python, tmp_path, monkeypatch, recorded):
    folder = tmp_path / "figures"
    monkeypatch.setenv("CAMPAIGN_RECORD", str(folder))
    monkeypatch.setenv("CAMPAIGN_SEED", "7")
    monkeypatch.setenv("CAMPAIGN_TRIES", "1000")
    recorded("kills of pack", 60, 60)
    more = {"memory_mib": [583, 584], "growth_mib": 0.1, "deviation_mib": 0.2, "files": [6, 6]}
    recorded("images through predict", 1500, 1500, **more)
    (folder / "started").touch()
    record = campaign_record(folder)
    assert (record["seed"], record["tries"], record["tried"], record["held"]) == (7, 1000, 1560, 1560)
    assert record["minutes"] < 5
    assert {"command", "commit", "versions", "hardware"} <= record.keys()
    (tmp_path / "campaign.json").write_text(json.dumps(record))
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import make_tables, pathlib; "
        f"make_tables.RESULTS = pathlib.Path({str(tmp_path)!r}); print(make_tables.campaign_table())"
    )
    table = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "| kills of pack | 60 | 60 |  |" in table
    assert "| images through predict | 1,500 | 1,500 | memory 583 MiB, at the end 584; " in table
    assert "0 minutes, seed 7, 1,000 tries." in table
