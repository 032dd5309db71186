"""Bad input of a user: one line on stderr, exit status 2."""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from models.checkpoint import CheckpointError


class UsageError(ValueError):
    """What a user typed or pointed at is wrong; the message names the option, file or key."""


def nearest(word: str, known: Any) -> str:
    """The end of an error message: the nearest valid name, else the valid ones."""
    names = [str(name) for name in known]
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f" (one of: {', '.join(sorted(names)[:20])})"


def run_command(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit; a :class:`UsageError` or an unfit checkpoint becomes one line and status 2."""
    try:
        status = main()
    except (UsageError, CheckpointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        status = 2
    sys.exit(status or 0)
