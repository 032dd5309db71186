"""The doctor tries every part and says how to mend a broken one."""

import json
import sys

import pytest

from tools import doctor

pytestmark = pytest.mark.dense


def test_a_whole_installation_is_well(capsys) -> None:
    status = doctor.main(["--json"])
    rows = json.loads(capsys.readouterr().out[:])
    assert [row["name"] for row in rows if row["status"] == "broken"] == [] and status == 0
    assert {row["part"] for row in rows} == {doctor.CORE, doctor.DENSE}


def test_a_broken_part_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "mmcv.ops", None)  # an import of it fails, as it does where nothing was compiled
    monkeypatch.setattr(doctor, "CHECKS", [item for item in doctor.CHECKS if item.name == "mmcv's operators"])
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "broken" in printed and "mmcv's operators" in printed and "mend: make setup-dense" in printed


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "pinned", lambda file: {"torch": "0.1", "no-such-package": "1.0"})
    with pytest.raises(doctor.Broken, match="no-such-package"):
        doctor.compare("requirements.txt")
    monkeypatch.setattr(doctor, "pinned", lambda file: {"torch": "0.1"})
    assert "tried with 0.1" in doctor.compare("requirements.txt")
