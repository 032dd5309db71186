"""The figure of an evaluation alone."""

from pathlib import Path

from engine.config import Config
from engine.evaluate import examine
from engine.records import EvalResult


def evaluate_checkpoint(config: Config, checkpoint: Path) -> EvalResult | None:
    """What an evaluation of these weights says; None on the ranks that do not write."""
    found = examine(config, checkpoint)
    return None if found is None else found[0]
