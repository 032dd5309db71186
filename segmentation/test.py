"""Evaluate a checkpoint for segmentation: `python segmentation/test.py CONFIG CHECKPOINT [options]`: JSON last."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.cli import run
from engine.dense.launch import test

if __name__ == "__main__":
    sys.exit(run(partial(test, "segmentation")))
