"""From a command line to an exit status: bad input is one line and status 2, never a traceback."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from engine.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_STOPPED, RankFailed, RunStopped, TrainingFailed
from models.errors import UserError


def parse(description: str, *, checkpoint: bool = False) -> argparse.Namespace:
    """``--config FILE [--checkpoint FILE] [section.key=value ...]``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the run")
    if checkpoint:
        parser.add_argument("--checkpoint", type=Path, required=True, help="weights to evaluate")
    else:
        parser.add_argument("--compile", action="store_true", help="the same as train.compile=true")
        parser.add_argument("--profile", action="store_true", help="the same as train.profile=true")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    arguments = parser.parse_intermixed_args()
    for flag in ("compile", "profile"):
        if getattr(arguments, flag, False):
            arguments.overrides.append(f"train.{flag}=true")
    return arguments


def run(main: Callable[[], None]) -> int:
    """Call ``main`` and turn the ends that a run may have into an exit status (see :mod:`engine.errors`)."""
    try:
        main()
    except UserError as error:
        return _say(error, EXIT_BAD_INPUT)
    except RunStopped as stopped:
        return _say(stopped, EXIT_STOPPED, "")
    except TrainingFailed as error:
        return _say(error, EXIT_FAILURE, everywhere=isinstance(error, RankFailed))
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last checkpoint", 130, "")
    return 0


def _say(message: object, status: int, prefix: str = "error: ", everywhere: bool = False) -> int:
    if everywhere or os.environ.get("RANK", "0") == "0":
        print(f"{prefix}{message}", file=sys.stderr)  # noqa: T201
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Everything is written. Taking a broken process group apart can wait for ranks that are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
