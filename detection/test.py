"""Evaluate a checkpoint for detection: `python detection/test.py CONFIG CHECKPOINT [options]`; ends in a JSON line."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.cli import run
from engine.dense.launch import test

if __name__ == "__main__":
    sys.exit(run(partial(test, "detection")))
