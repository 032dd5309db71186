"""Every command answers for itself: help at once, wrong arguments in one line, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT / "tools", ROOT / "benchmarks", ROOT)
    for path in folder.glob("*.py")
    if "\ndef main(" in path.read_text(encoding="utf-8")
)


def call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, and print on stderr whether torch was imported."""
    code = (
        "import atexit, runpy, sys; sys.path.insert(0, sys.path.pop(0) or '.');"
        "atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT', file=sys.stderr));"
        f"sys.argv = {[command, *arguments]!r}; sys.path[0] = {str((ROOT / command).parent)!r};"
        f"runpy.run_path({command!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) > 18 and {"train_cls.py", "eval_cls.py", "tools/model_cost.py"} <= set(COMMANDS)


def written() -> dict[str, int]:
    """When each file was last written that a command of this project keeps in the checkout."""
    files = (path for folder in ("benchmarks", "configs", "docs") for path in (ROOT / folder).rglob("*"))
    return {str(path): path.stat().st_mtime_ns for path in files if path.suffix in (".json", ".md", ".yaml", ".png")}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_torch(command: str) -> None:
    """What takes seconds is torch; without it a help text takes a tenth of one."""
    before = written()
    done = call(command, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
    assert done.stderr.endswith("LIGHT\n")
    assert written() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_argument_is_refused(command: str) -> None:
    before = written()
    done = call(command, "--no-such-argument")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--no-such-argument" in done.stderr or "required" in done.stderr
    assert written() == before


@pytest.mark.parametrize(("length", "status"), [(9, 0), (99_999, 141)])  # what fits the buffer is written at the end
def test_output_that_nobody_reads_is_no_fault(length: int, status: int) -> None:
    code = f"import sys; from engine import cli; sys.exit(cli.run(lambda: print('a' * {length})))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", status)


def test_what_writes_says_no_to_help_in_any_place() -> None:
    """`--help` behind the option that counts and writes for minutes, and a result without a run."""
    before = written()
    assert call("tools/model_cost.py", "--write-dense", "--help").returncode == 0
    assert call("tools/record_result.py", "runs/none", "--help").returncode == 0
    assert call("tools/record_result.py").returncode == 2
    assert written() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_main_leaves_errors_to_the_one_place_that_maps_them(command: str) -> None:
    source = (ROOT / command).read_text(encoding="utf-8")
    main = source[source.index("\ndef main(") :]
    assert "except UserError" not in main and "except ValueError" not in main
    assert "@cli.command(" in source or "cli.run(main)" in source
