"""Starting: the lock of a run folder, and ranks that do not come."""

import os
import signal
import subprocess
import sys
import time

import pytest

from engine.runfolder import RunLock
from models.errors import UserError

HOLD = """
import os, sys, time
from pathlib import Path
from engine.runfolder import RunLock
lock = RunLock(Path(sys.argv[1]))
if os.fork() == 0:
    time.sleep(60)  # as a loader worker that has not yet seen that its parent is gone
print("held", flush=True)
time.sleep(60)
"""


def test_one_at_a_time_and_free_after_a_kill_though_a_child_lives(tmp_path, repo):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=repo,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(repo)},
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is in use by process {holder.pid} on "):
            RunLock(tmp_path / "run")
        holder.kill()
        holder.wait()
        began = time.monotonic()
        RunLock(tmp_path / "run").release()
        assert time.monotonic() - began < 2
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_released_locks_can_be_taken_again(tmp_path):
    RunLock(tmp_path).release()
    lock = RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output: the run folder .* cannot be used"):
        RunLock(tmp_path / "file" / "run")


def test_a_rank_that_never_comes_is_an_error_and_not_a_hang(repo):
    code = "from engine.distributed import join_world; join_world('cpu', 3.0)"
    world = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "PYTHONPATH": str(repo)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | world, capture_output=True, text=True, cwd=repo
    )
    assert done.returncode == 1
    assert "RankFailed: rank 0: the 2 ranks have not found each other" in done.stderr
