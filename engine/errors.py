"""The ways in which a run ends early, and the exit status of each."""

EXIT_FAILURE = 1  # the run failed: diverged, a rank stalled, a loader died
EXIT_BAD_INPUT = 2  # what the user gave cannot be used; nothing was started
EXIT_STOPPED = 75  # asked to stop by a signal; the same command goes on (EX_TEMPFAIL of sysexits.h)
EXIT_UNREAD = 141  # what reads the output left before its end, as a shell says of SIGPIPE


class RunStopped(Exception):
    """A signal asked the run to stop, and all ranks have saved."""


class TrainingFailed(RuntimeError):
    """The run cannot go on, and starting it again would not help without a change. The message is one line."""


class RankFailed(TrainingFailed):
    """A failure that only this rank knows of, so that this rank must say it."""
