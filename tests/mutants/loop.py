"""A pytest plugin: collects once, looks which tests call which functions, then forks for each mutant.

mutmut's own loop starts pytest anew for each mutant, which costs seconds where the tests themselves take milliseconds.
``--mutants=FILE`` names a JSON list of mutants; ``FILE.out`` gets a line for each: name, what became of it, how many
tests it met, CPU seconds.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

WALL = 900.0  # seconds for one mutant, on a machine that does other things, too
CPU = 10  # seconds at least, and ten times what its tests take without it
SURVIVED, KILLED = 0, 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of this plugin."""
    parser.addoption("--mutants", type=Path, required=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Run all tests once as they are, then the right ones for each mutant."""
    path = session.config.getoption("--mutants")
    if session.testsfailed or not session.items:
        raise session.Interrupted(f"{session.testsfailed} errors, {len(session.items)} tests")
    look = path.with_name(path.name + ".tests")
    if _in_child(lambda: _look_at_tests(session, look), limit=3600, wall=7200.0) != SURVIVED:
        raise session.Failed(f"a test fails without any mutant, see {look}")
    found = json.loads(look.read_text())
    items = {item.nodeid: item for item in session.items}
    with path.with_name(path.name + ".out").open("a") as out:
        for mutant in json.loads(path.read_text()):
            names = [name for name, about in found.items() if mutant.partition("__mutmut_")[0] in about["calls"]]
            names.sort(key=lambda name: found[name]["seconds"])
            began, status = os.times(), "survived"
            if names:
                status = _try(session, mutant, [items[name] for name in names], sum(found[n]["seconds"] for n in names))
            used = os.times()
            cost = used.children_user + used.children_system - began.children_user - began.children_system
            out.write(json.dumps([mutant, status, len(names), round(cost, 2)]) + "\n")
            out.flush()
    return True


def _look_at_tests(session: pytest.Session, path: Path) -> int:
    """Write which functions each test calls, all that its fixtures call with it, and its CPU seconds."""
    set_mutant_under_test("stats")
    found = {}
    for item in session.items:
        state()._stats.clear()
        began = time.process_time()
        code = _run(session, [item])
        found[item.nodeid] = {"seconds": time.process_time() - began, "calls": sorted(state()._stats)}
        if code != SURVIVED:
            path.write_text(f"{item.nodeid} fails without any mutant\n")
            return code
    path.write_text(json.dumps(found))
    return SURVIVED


def _run(session: pytest.Session, items: list[pytest.Item]) -> int:
    """Run tests until one fails."""
    following: Iterable[pytest.Item | None] = [*items[1:], None]
    for item, after in zip(items, following, strict=True):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if session.testsfailed:
            return KILLED
    return SURVIVED


def _try(session: pytest.Session, mutant: str, items: list[pytest.Item], seconds: float) -> str:
    def action() -> int:
        set_mutant_under_test(mutant)
        return _run(session, items)

    code = _in_child(action, limit=CPU + round(10 * seconds), wall=WALL)
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout"
    return "survived" if code == SURVIVED else "killed"


def _in_child(action: Callable[[], int], limit: int, wall: float) -> int:
    """The exit status of a silent child that does this, within so many seconds of CPU and of the clock."""
    child = os.fork()
    if child == 0:
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            sys.stdout.flush()
            for number in (1, 2):
                os.dup2(silence, number)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            os._exit(action())
        finally:
            os._exit(KILLED)
    until = time.monotonic() + wall
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
