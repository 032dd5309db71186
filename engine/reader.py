"""What steps did, read a step behind the device and booked in their order.

While the device works on a step, the host prepares the next one; it would stand still at each step if it asked at once.
"""

import logging
from collections import deque
from collections.abc import Callable

from data import Batch
from engine.meter import Meter
from engine.state import Progress
from engine.step import PendingStep, StepResult

LOG = logging.getLogger(__name__)
BEHIND = 1  # steps: with the next one queued, the device has work when this one ends


class StepReader:
    """Books steps into the progress and the meter.

    Args:
        limit: bad steps in a row after which a run is given up.
        give_up: called with the last of them and its batches; does not return.
    """

    def __init__(
        self, progress: Progress, meter: Meter, limit: int, give_up: Callable[[StepResult, list[Batch]], None]
    ) -> None:
        self._progress, self._meter, self._limit, self._give_up = progress, meter, limit, give_up
        self._waiting: deque[tuple[PendingStep, list[Batch]]] = deque()
        self.last: StepResult | None = None

    def add(self, step: PendingStep, batches: list[Batch]) -> None:
        """A step has been started."""
        self._waiting.append((step, batches))
        self._progress.step += 1

    def catch_up(self, behind: int = 0) -> None:
        """Read all steps but the last ``behind``.

        No step is started after one that may have to be the last: where all that wait would reach the limit if they
        were bad, they are read at once.
        """
        while len(self._waiting) > behind or (
            self._waiting and self._progress.bad_in_row + len(self._waiting) >= self._limit
        ):
            step, batches = self._waiting.popleft()
            self._book(step.read(), batches)

    def _book(self, result: StepResult, batches: list[Batch]) -> None:
        progress = self._progress
        if result.taken:
            progress.loss_sum += result.loss
            progress.loss_steps += 1
        else:
            progress.skipped += 1
            LOG.warning(
                "WARNING: step %d skipped: loss %g, gradient norm %g", result.number, result.loss, result.grad_norm
            )
        progress.bad_in_row = progress.bad_in_row + 1 if result.bad else 0
        self._meter.add(result)
        self.last = result
        if progress.bad_in_row >= self._limit:
            self._give_up(result, batches)
