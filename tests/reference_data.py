"""Where the reference data lies: miniatures of the authors' models, their checkpoints' keys, rows of the paper."""

from pathlib import Path

REFERENCE = Path(__file__).resolve().parent / "reference"
