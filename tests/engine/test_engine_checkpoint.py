"""Checkpoints: exact there and back, never half, the newest intact one is used."""

import hashlib
import logging
import os
import random
import subprocess

import pytest
import torch

from engine.checkpoint import CheckpointFolder
from engine.errors import TrainingFailed
from engine.files import write_atomic
from engine.serialize import pack, unpack
from engine.weights import file_hash, read_about, save_weights


def state_of(step):
    return {
        "model": {"w": torch.full((3, 4), float(step)), "n": torch.tensor(step)},
        "optimizer": {"state": {0: {"m": torch.randn(2).bfloat16(), "k": [1, None, (2.5, "x")]}}, "groups": ({},)},
        "progress": {"step": step, "loss": 0.1 + 1e-17 + step, "nan": float("inf"), "flag": True},
    }


def same(a, b):
    if torch.is_tensor(a):
        return torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_nested_values_survive_exactly():
    value = state_of(3)
    assert same(value, unpack(*pack(value)))


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, {1.5: 1}, lambda: 0])
def test_what_is_not_data_is_not_saved(value):
    with pytest.raises(TypeError):
        pack(value)


def test_newest_is_loaded_and_old_ones_go(tmp_path):
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    assert folder.load() is None
    for step in (5, 10, 15):
        folder.save(step, state_of(step))
    names = sorted(p.name for p in (tmp_path / "c").iterdir())
    assert names == [f"step-0000000{s}.{kind}" for s in (10, 15) for kind in ("safetensors", "sha256")]
    found = folder.load()
    assert found.step == 15 and float(found.state["model"]["w"][0, 0]) == 15
    assert subprocess.run(["sha256sum", "--check", "--quiet", *[n for n in names if "sha" in n]], cwd=tmp_path / "c")


def test_damage_of_any_kind_is_seen(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2):
        folder.save(step, state_of(step))
    draw = random.Random(0)
    paths = [tmp_path / "step-000000002.safetensors", tmp_path / "step-000000002.sha256"]
    for trial in range(100):
        path = paths[trial % 2]
        good = path.read_bytes()
        place = draw.randrange(len(good))
        flipped = good[:place] + bytes([good[place] ^ 1 << draw.randrange(8)]) + good[place + 1 :]
        path.write_bytes(good[:place] if trial % 4 < 2 else flipped)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert folder.load().step == 1
        assert "DAMAGED checkpoint" in caplog.text and "step-000000002" in caplog.text
        path.write_bytes(good)
    assert folder.load().step == 2


def test_missing_manifest_is_damage_and_manifest_alone_is_not(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.save(1, state_of(1))
    (tmp_path / "step-000000002.sha256").write_text("cut short")
    assert folder.load().step == 1
    (tmp_path / "step-000000001.sha256").unlink()
    with pytest.raises(TrainingFailed, match="all 1 checkpoints are damaged"):
        folder.load()


def test_damaged_ones_are_set_aside(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2):
        folder.save(step, state_of(step))
    (tmp_path / "step-000000002.safetensors").write_bytes(b"short")
    folder.set_damaged_aside()
    folder.save(3, state_of(3))
    assert [p.name for p in sorted(tmp_path.glob("step-*.safetensors"))] == [
        "step-000000001.safetensors",
        "step-000000003.safetensors",
    ]
    assert (tmp_path / "step-000000002.safetensors.damaged").exists()


def test_a_refusing_disk_leaves_what_was_there(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, state_of(1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def refuse(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        folder.save(2, state_of(2))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_failing_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *a: (_ for _ in ()).throw(PermissionError("no")))
    with pytest.raises(PermissionError):
        write_atomic(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_weight_files_repeat_to_the_bit(tmp_path):
    state = {"b": torch.randn(3, 4).t(), "a": torch.arange(5)}
    about = {"model": {"name": "x"}, "step": 3, "top1": 12.5}
    save_weights(tmp_path / "1.safetensors", state, about)
    save_weights(tmp_path / "2.safetensors", state, dict(reversed(about.items())))
    data = (tmp_path / "1.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == file_hash(tmp_path / "2.safetensors")
    assert read_about(tmp_path / "1.safetensors") == about
