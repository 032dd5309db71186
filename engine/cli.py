"""From a command line to an exit status: bad input is one line and status 2, never a traceback."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_STOPPED,
    EXIT_UNREAD,
    RankFailed,
    RunStopped,
    TrainingFailed,
)


def explaining(module: str, schema: str) -> type[argparse.Action]:
    """An option that prints what the keys of a schema mean, all or a section's, and ends the program as --help does."""

    class Explain(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, _: object, section: Any, option: str | None = None) -> None:
            parser.exit(run(lambda: explain(module, schema, section or None), parser.prog))

    return Explain


def explain(module: str, schema: str, section: str | None) -> None:
    """Print the keys of a schema, which is imported now: a plain help text does without torch."""
    from engine.explain import text_of

    print(text_of(getattr(import_module(module), schema), section))  # noqa: T201


def parse(description: str, *, checkpoint: bool = False) -> argparse.Namespace:
    """``--config FILE [--checkpoint FILE] [section.key=value ...]``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the run")
    if checkpoint:
        parser.add_argument(
            "--checkpoint", type=Path, required=True, help="weights to evaluate: a file, or a model's name"
        )
        parser.add_argument(
            "--predictions", type=Path, metavar="FILE.csv", help="a row an image: file, true and predicted class"
        )
        parser.add_argument(
            "--confusion", type=Path, metavar="FILE.png", help="figure of which classes are taken for which"
        )
    else:
        parser.add_argument("--print-config", action="store_true", help="print the resolved YAML and stop")
        parser.add_argument(
            "--help-config",
            nargs="?",
            metavar="SECTION",
            action=explaining("engine.schema", "Config"),
            help="what the keys of a config mean",
        )
        parser.add_argument("--compile", action="store_true", help="the same as train.compile=true")
        parser.add_argument("--profile", action="store_true", help="the same as train.profile=true")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a value of the config")
    arguments = parser.parse_intermixed_args()
    for flag in ("compile", "profile"):
        if getattr(arguments, flag, False):
            arguments.overrides.append(f"train.{flag}=true")
    return arguments


Main = Callable[..., int | None]
Also = tuple[type[Exception], ...]


def command(name: str, also: Also = ()) -> Callable[[Main], Callable[..., int]]:
    """Make a ``main`` that parses, calls and prints into one that returns an exit status (:func:`run`)."""

    def wrap(main: Main) -> Callable[..., int]:
        @wraps(main)
        def status(*arguments: Any) -> int:
            return run(partial(main, *arguments), name, also)

        return status

    return wrap


def run(main: Callable[[], int | None], name: str = "error", also: Also = ()) -> int:
    """Call ``main`` and turn the ends that it may have into an exit status (see :mod:`engine.errors`).

    Bad input, a UserError or one of ``also``, is the line ``NAME: text`` and status 2; a bare ValueError is a bug and
    shows its traceback. Output that nobody reads to its end (``| head``) is no fault and says nothing.
    """
    try:
        status = main() or 0
        _reader_left("")
        return status
    except BrokenPipeError:
        if not _reader_left("\n"):  # what failed may be gone from the buffer
            raise
        return EXIT_UNREAD
    except RunStopped as stopped:
        return _say(stopped, EXIT_STOPPED, "")
    except TrainingFailed as error:
        return _say(error, EXIT_FAILURE, f"{name}: ", everywhere=isinstance(error, RankFailed))
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last checkpoint", 130, "")
    except Exception as error:
        from models.errors import UserError  # the package comes with torch, which a help text does without

        if isinstance(error, (UserError, *also)):
            return _say(error, EXIT_BAD_INPUT, f"{name}: ")
        if _is_alone():
            raise
        traceback.print_exc()
        _leave(EXIT_FAILURE)


def _reader_left(last: str) -> bool:
    """Write the last of standard output; whether nobody reads it, and then what is left is let go."""
    try:
        print(last, end="", flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return True
    return False


def _say(message: object, status: int, prefix: str, everywhere: bool = False) -> int:
    if everywhere or os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # nobody reads it any more
            print(f"{prefix}{message}", file=sys.stderr, flush=True)  # noqa: T201
    if not _is_alone():
        _leave(status)
    return status


def _is_alone() -> bool:
    return os.environ.get("WORLD_SIZE", "1") == "1"


def _leave(status: int) -> NoReturn:
    """End a rank at once: everything is written, and taking a broken process group apart can wait for lost ranks."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)
