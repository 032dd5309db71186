"""The run folder: one run at a time, one config for its whole life, and a record of what ran there."""

import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from pydantic import BaseModel, ValidationError

from data.config import DataConfig
from engine.config import Config, as_yaml, to_dict
from engine.distributed import World
from engine.files import write_atomic
from engine.schema import EvalConfig, TrainConfig
from models.config import ModelConfig
from models.errors import UserError

PATIENCE = 2.0  # seconds
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pydantic")
# What may differ when a run goes on: where and how fast it runs and what it writes, but not what it computes.
FREE = {
    "train": {
        *("accumulation", "threads", "save_every", "keep", "log_every", "tensorboard", "wandb", "profile", "timeout"),
        *("max_bad_steps", "device", "bn_batch"),
    },
    "data": {"root", "index", "workers", "prefetch", "timeout", "pin_memory", "max_corrupt", "cache"},
    "eval": {"batch_size", "precision"},
}


class RunLock:
    """Holds the run folder while this object lives; the lock goes with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            UserError: another process has it, or the folder cannot be made or written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = (folder / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"output: the run folder {folder} cannot be used: {error}") from None
        os.register_at_fork(after_in_child=self._file.close)  # loader workers outlive a killed run for some seconds
        if not self._take():
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(f"output: {folder} is in use by {holder}; choose another output folder")
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def _take(self) -> bool:
        """Whether the lock was had within the time that the last processes of a killed run may take to go."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)

    def release(self) -> None:
        """Let another run have the folder."""
        self._file.close()


def check_same_run(folder: Path, config: Config) -> None:
    """Refuse to go on with another config than the run began with.

    Raises:
        UserError: names the first key that differs and both values.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    before = completed(yaml.safe_load(path.read_text(encoding="utf-8")))
    for key, old, new in departures(before, to_dict(config), ("model", "data", "train", "eval"), FREE):
        raise UserError(
            f"output: {folder} holds a run with {key} = {old}, now it is {new}; go on with the old value or choose "
            f"another output folder"
        )


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A classifier's config as a run folder keeps it, with the defaults of keys that have come since then."""
    sections: dict[str, type[BaseModel]] = {
        "model": ModelConfig,
        "data": DataConfig,
        "train": TrainConfig,
        "eval": EvalConfig,
    }
    found = dict(config)
    for name, schema in sections.items():
        with suppress(ValidationError):  # a key that is gone: compared as it stands
            found[name] = schema.model_validate(config.get(name, {})).model_dump(mode="json")
    return found


def departures(
    run: Mapping[str, Any], other: Mapping[str, Any], sections: Iterable[str], free: Mapping[str, Container[str]]
) -> list[tuple[str, Any, Any]]:
    """The keys in which two configs differ, with both values, None for one that is not there.

    Args:
        free: keys of a section that may differ.
    """
    found = []
    for section in sections:
        one, two = (dict(leaves(config.get(section) or {})) for config in (run, other))
        for key in sorted(one.keys() | two.keys()):
            if one.get(key) != two.get(key) and key not in free.get(section, ()):
                found.append((f"{section}.{key}" if key else section, one.get(key), two.get(key)))
    return found


def leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, and of lists of mappings, by their dotted keys."""
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        inner = node.items()
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        inner = enumerate(node)
    else:
        yield name, node
    for key, value in inner:
        yield from leaves(value, f"{name}.{key}" if name else str(key))


def record_start(folder: Path, config: Config, world: World, step: int) -> None:
    """Write ``config.yaml`` (resolved) and ``meta.json`` (what ran, with what, on what, and when it started)."""
    text = as_yaml(config)
    write_atomic(folder / "config.yaml", text.encode())
    path = folder / "meta.json"
    start = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": step, "ranks": world.size}
    meta = describe_run() | {"device": device_name(world.device), "ranks": world.size}
    meta["starts"] = [*_earlier_starts(path), start]
    write_atomic(path, json.dumps(meta, indent=2).encode())


def _earlier_starts(path: Path) -> list[dict[str, object]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError):
        return []  # the first start, or a record that the disk has damaged: no reason to stop


def describe_run() -> dict[str, Any]:
    """The command, the versions of what computes, the machine and the git commit."""
    return {
        "command": [Path(sys.executable).name, *sys.argv],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": git_commit(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """The name of the GPU, or ``cpu`` with the machine's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"


def processor_name() -> str:
    """The processor as Linux knows it, elsewhere the machine's architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def git_commit() -> str:
    """The commit of this checkout, with ``-dirty`` when files differ from it, or ``unknown``."""
    try:
        name = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(name, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
