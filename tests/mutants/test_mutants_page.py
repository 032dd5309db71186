"""The page of the mutants: scores that a person can count, and reasons that are found after the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mutants import page
from tests.mutants.changed import Change


def row(module: str, caught: int, tried: int, *survivors: Change) -> dict[str, Any]:
    listed = [vars(change).copy() for change in survivors]
    about = {"seconds": 1.0, "commit": "0123456789abc", "machine": "a machine"}
    return {"module": module, "mutants": 50, "tried": tried, "caught": caught, "survivors": listed} | about


def test_reasons_that_are_found_later_count_for_rows_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = tmp_path / "survivors.yaml"
    reasons.write_text("[]")
    monkeypatch.setattr(page, "REASONS", reasons)
    same, other = Change("a.f", "x = 0", "x = None"), Change("a.g", 'say("yes")', 'say("YES")')
    page.write_page(tmp_path, [row("a.py", 8, 10, same, other)])
    assert "| a.py | 50 | 10 | 0 | 8 | 80.0 | 49 to 94 |" in (tmp_path / "mutants.md").read_text()  # Wilson, by hand
    kinds = [item["kind"] for item in json.loads((tmp_path / "mutants.json").read_text())[0]["survivors"]]
    assert kinds == ["not looked at", "wording"]
    later = tmp_path / "later.yaml"
    later.write_text(yaml.safe_dump([vars(same) | {"kind": "equivalent", "why": "as false"}]))
    monkeypatch.setattr(page, "REASONS", later)
    page.write_page(tmp_path, [row("b.py", 10, 10)])
    text = (tmp_path / "mutants.md").read_text()
    assert "| a.py | 50 | 10 | 1 | 8 | 88.9 |" in text and "| b.py | 50 | 10 | 0 | 10 | 100.0 |" in text
    assert "| **all** | 100 | 20 | 1 | 18 | 94.7 |" in text
    assert "| f | `` x = 0 `` | `` x = None `` | equivalent: as false |" in text
