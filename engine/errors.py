"""The ways in which a run ends early, and the exit status of each."""

import difflib
from collections.abc import Iterable

EXIT_FAILURE = 1  # the run failed: diverged, a rank stalled, a loader died
EXIT_BAD_INPUT = 2  # what the user gave cannot be used; nothing was started
EXIT_STOPPED = 75  # asked to stop by a signal; the same command goes on (EX_TEMPFAIL of sysexits.h)


class ConfigError(ValueError):
    """What the user gave cannot be used. The message is one line that names the key or file and the nearest valid."""


class RunStopped(Exception):
    """A signal asked the run to stop, and all ranks have saved."""


class TrainingFailed(RuntimeError):
    """The run cannot go on, and starting it again would not help without a change. The message is one line."""


class RankFailed(TrainingFailed):
    """A failure that only this rank knows of, so that this rank must say it."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to ``name``, or None when none is close."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return found[0] if found else None


def hint(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """A clause that names the nearest valid name, or lists what is valid when none is close."""
    names = sorted(valid)
    close = nearest(name, names)
    if close is not None:
        return f"the nearest valid one is {prefix}{close}"
    return "valid are " + ", ".join(names[:40]) if names else "none is valid here"
