"""Train a model for detection: `python detection/train.py CONFIG [options]`; the same under torchrun or srun."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.cli import run
from engine.dense.launch import train

if __name__ == "__main__":
    sys.exit(run(partial(train, "detection")))
