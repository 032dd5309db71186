"""Turn SIGTERM and SIGUSR1 into a request that the run answers at a safe point.

Nothing heavy is imported here: an entry point calls :func:`watch` before it imports torch, so that a signal during
start-up ends the run with the status of a run that can go on.
"""

import os
import signal
import sys
from types import FrameType

from engine.errors import EXIT_STOPPED

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether a signal has asked this process to stop.

    Before :meth:`defer` a signal ends the process at once, since there is nothing to save; after it the signal is only
    noted, and the training loop asks at each step.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._deferred = False
        self._owner = os.getpid()

    def __bool__(self) -> bool:
        return self.received is not None

    def defer(self) -> None:
        """From now on a signal is noted and the loop decides."""
        self._deferred = True

    def act_at_once(self) -> None:
        """A signal ends the process at once again: there is nothing left to save."""
        self._deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if os.getpid() != self._owner:
            return  # a loader worker: it goes when the loader closes it, after the state is saved
        self.received = signal.Signals(number).name
        if not self._deferred:
            print(f"stopped by {self.received} before the first step; nothing to save", file=sys.stderr, flush=True)  # noqa: T201
            # Not SystemExit: an import or a native call under way must not swallow the end.
            os._exit(EXIT_STOPPED)


_request: StopRequest | None = None


def watch() -> StopRequest:
    """Install the handlers (once) and return the request that they fill."""
    global _request
    if _request is None or _request._owner != os.getpid():
        _request = StopRequest()
        for number in SIGNALS:
            signal.signal(number, _request.handle)
    return _request


def forget() -> None:
    """Give the signals their default meaning back, for a process that goes on after a run."""
    global _request
    _request = None
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
