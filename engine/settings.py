"""What decides the figure of an evaluation, beside weights and images."""

from typing import Any

from engine.config import Config
from engine.runfolder import leaves

# Of the model, what acts in training alone; of the data, how a picture becomes the model's input.
TRAINING_ONLY = {"pretrained", "grad_checkpointing", "drop_rate", "drop_path_rate"}
INPUT = {"channels", "mean", "std", "interpolation", "crop_pct", "eval_crop", "exif"}


def evaluation_settings(config: Config) -> dict[str, Any]:
    """The settings of a config that evaluations of the same weights differ by, by dotted key; defaults are left out."""
    chosen = {
        "model": config.model.model_dump(mode="json", exclude_defaults=True, exclude=TRAINING_ONLY),
        "data": config.data.model_dump(mode="json", exclude_defaults=True, include=INPUT),
    }
    return dict(leaves(chosen))
