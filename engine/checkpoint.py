"""The checkpoints of a run: never half, never silently wrong.

``checkpoints/step-000000042.safetensors`` holds the whole state after 42 optimiser steps; the file of the same name
with ``.sha256`` is its manifest, in the form that ``sha256sum -c`` reads. The manifest is written first, so a
checkpoint without one is damage, and a manifest without a checkpoint is only a save that was cut short.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from engine.errors import TrainingFailed
from engine.files import flush_folder, remove_temporary, write_atomic
from engine.serialize import pack, unpack
from engine.state import TrainState

LOG = logging.getLogger(__name__)
FORMAT = "run-state-1"
HEAD = "run"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes are the ones that were written."""

    step: int
    state: Any


class CheckpointFolder:
    """The checkpoints of one run, newest last. Only one process may use it at a time."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: Any) -> None:
        """Write the state after ``step`` optimiser steps, then remove the oldest beyond ``keep``.

        An intact checkpoint of that step stays as it is: nothing is trained between two saves of one step, and to
        replace it would leave none for a moment.

        Raises:
            OSError: it could not be written; the earlier checkpoints are intact.
        """
        if self._path(step).is_file() and _read(self._path(step))[0] is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(self.folder)
        tensors, tree = pack(state)
        head = json.dumps({"format": FORMAT, "step": step, "tree": tree})
        data = safetensors.torch.save(tensors, metadata={HEAD: head})
        path = self._path(step)
        path.unlink(missing_ok=True)  # a damaged one of the same step must not meet the new manifest
        write_atomic(_manifest(path), _manifest_text(path, data))
        write_atomic(path, data)
        self._retain()

    def load(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None when there is none at all. Damaged ones are reported and set aside.

        Raises:
            TrainingFailed: there are checkpoints and every one is damaged.
        """
        damaged: list[Path] = []
        for path in reversed(self._all()):
            fault, data = _read(path)
            if fault is None:
                if damaged:
                    LOG.error("going back to the checkpoint %s", path.name)
                return _decode(path, data)
            LOG.error("DAMAGED checkpoint %s: %s; it is not used", path, fault)
            damaged.append(path)
        if damaged:
            raise TrainingFailed(
                f"{self.folder}: all {len(damaged)} checkpoints are damaged; remove the run folder to begin anew"
            )
        return None

    def set_damaged_aside(self) -> None:
        """Rename damaged checkpoints, so that they neither count as kept nor are read again."""
        for path in self._all():
            if _read(path)[0] is not None:
                path.rename(path.with_name(path.name + ".damaged"))
                _manifest(path).unlink(missing_ok=True)
        if self.folder.is_dir():
            remove_temporary(self.folder)

    def leave_one(self) -> None:
        """Remove all checkpoints but the newest intact one, where the disk has no room for another."""
        intact = [path for path in self._all() if _read(path)[0] is None]
        for path in intact[:-1]:
            path.unlink()
            _manifest(path).unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))

    def _retain(self) -> None:
        paths = self._all()
        for path in paths[: -self.keep]:
            path.unlink()
            _manifest(path).unlink(missing_ok=True)
        valid = {_manifest(path) for path in paths}
        for manifest in self.folder.glob("step-*.sha256"):
            if manifest not in valid:
                manifest.unlink()
        flush_folder(self.folder)


def _manifest(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _manifest_text(path: Path, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode()


def _read(path: Path) -> tuple[str | None, bytes]:
    """What is wrong with a checkpoint (None: nothing) and its bytes."""
    try:
        data = path.read_bytes()
        manifest = _manifest(path).read_bytes()
    except FileNotFoundError:
        return "it has no manifest", b""
    except OSError as error:
        return f"it cannot be read ({error})", b""
    if manifest != _manifest_text(path, data):
        return "its bytes are not the ones that were written (manifest and content differ)", b""
    return None, data


def _decode(path: Path, data: bytes) -> Checkpoint:
    length = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(HEAD, "{}"))
    if head.get("format") != FORMAT:
        raise TrainingFailed(f"{path}: written by another version ({head.get('format')}, this one reads {FORMAT})")
    return Checkpoint(head["step"], unpack(safetensors.torch.load(data), head["tree"]))


class CheckpointSaver:
    """Saves the run's state every so many steps, and sooner again after a failure.

    Args:
        folder: where checkpoints go; None on ranks that do not write.
        every: steps between checkpoints.
        saved: the step whose state is on the disk when the run begins or goes on.
    """

    def __init__(self, folder: CheckpointFolder | None, every: int, saved: int = 0) -> None:
        self._folder = folder
        self._every = every
        self.saved = saved
        self._wait = 0
        self._retry_at: int | None = None

    def due(self, step: int) -> bool:
        """Whether to save after ``step`` steps."""
        return step % self._every == 0 or (self._retry_at is not None and step >= self._retry_at)

    def save(self, state: TrainState) -> None:
        """Save, or say why not."""
        if self._folder is None:
            return
        step = state.progress.step
        try:
            self._folder.save(step, state.to_save())
        except OSError as error:
            self._wait = min(max(1, 2 * self._wait), self._every)
            self._retry_at = step + self._wait
            LOG.error(
                "CANNOT SAVE the checkpoint of step %d: %s; training goes on, the earlier checkpoints are intact, "
                "next try after step %d",
                *(step, error, self._retry_at),
            )
        else:
            if self._retry_at is not None:
                LOG.warning("saving works again, step %d is saved", step)
            self.saved = step
            self._wait, self._retry_at = 0, None

    def insist(self, state: TrainState, seconds: float) -> None:
        """Save the last state, unless it is saved: make room by the older checkpoints, and wait for the disk.

        Raises:
            TrainingFailed: it still fails after ``seconds``.
        """
        folder, step = self._folder, state.progress.step
        if folder is None or self.saved == step:
            return

        def write() -> None:
            folder.leave_one()
            folder.save(step, state.to_save())

        insist_on_writing(f"the checkpoint of step {step}", write, seconds, f"its state of step {self.saved} is kept")
        self.saved = step


def try_writing(what: str, write: Callable[[], None]) -> bool:
    """Write a file that later steps do not need; a failure is said and can be mended at the next epoch."""
    try:
        write()
    except OSError as error:
        LOG.error("CANNOT WRITE %s: %s; training goes on", what, error)
        return False
    return True


def insist_on_writing(what: str, write: Callable[[], None], seconds: float, kept: str) -> None:
    """Write the last files of a run: there is no later time, so wait for the disk.

    Args:
        kept: what is on the disk in any case, for the message.

    Raises:
        TrainingFailed: it still fails after ``seconds``.
    """
    until, wait = time.monotonic() + seconds, 1.0
    while True:
        try:
            write()
            return
        except OSError as error:
            if time.monotonic() + wait > until:
                raise TrainingFailed(
                    f"cannot write {what}: {error}; {kept}: make room and start the same command again"
                ) from None
            LOG.error("CANNOT WRITE %s: %s; next try in %.0f s", what, error, wait)
            time.sleep(wait)
            wait = min(2 * wait, 60.0)
