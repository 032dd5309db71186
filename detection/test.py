"""Evaluate a checkpoint for detection: `python detection/test.py CONFIG CHECKPOINT [options]`; the last line is JSON."""

import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The folder of this script holds no module, and its name would hide nothing but confusion.
sys.path[0] = str(ROOT)

from dense.errors import run_command
from dense.launch import test

if __name__ == "__main__":
    run_command(partial(test, "detection"))
