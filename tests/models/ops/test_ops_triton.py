"""The Triton kernels on the CPU: Triton's interpreter is chosen when it is imported, hence a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]


def test_kernels_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/models/ops/test_ops_oracle.py",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_on_a_cpu_the_kernels_ask_for_the_interpreter() -> None:
    code = (
        "import torch; from models.ops import local_aggregate, use_backend\n"
        "with use_backend('triton'): local_aggregate(torch.zeros(1, 2, 2, 1), torch.zeros(1, 3, 3))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "TRITON_INTERPRET=1" in done.stderr
