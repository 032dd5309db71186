"""When to save and what to do when it fails: training goes on, loudly, and tries again."""

import logging
import time
from collections.abc import Callable

from engine.checkpoint import CheckpointFolder
from engine.errors import TrainingFailed
from engine.state import TrainState

LOG = logging.getLogger(__name__)


class Saver:
    """Saves the run's state every so many steps, and sooner again after a failure.

    Args:
        folder: where checkpoints go; None on ranks that do not write.
        every: steps between checkpoints.
    """

    def __init__(self, folder: CheckpointFolder | None, every: int) -> None:
        self._folder = folder
        self._every = every
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
            self._wait, self._retry_at = 0, None


def try_writing(what: str, write: Callable[[], None]) -> bool:
    """Write a file that later steps do not need; a failure is said and can be mended at the next epoch."""
    try:
        write()
    except OSError as error:
        LOG.error("CANNOT WRITE %s: %s; training goes on", what, error)
        return False
    return True


def insist_on_writing(what: str, write: Callable[[], None], seconds: float) -> None:
    """Write the last files of a run: there is no later time, so wait for the disk.

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
                    f"cannot write {what}: {error}; the run is trained and its checkpoint is kept: make room and "
                    f"start the same command again"
                ) from None
            LOG.error("CANNOT WRITE %s: %s; next try in %.0f s", what, error, wait)
            time.sleep(wait)
            wait = min(2 * wait, 60.0)
