"""What a run learns from, kept in its checkpoints, so that it does not go on with something else unsaid."""

from pathlib import Path
from typing import Any

from torch import nn

from data import EvalLoader, TrainLoader
from data.classes import shown_names
from engine.batchnorm import norms
from engine.config import Config, check_batch
from engine.distributed import World
from models.errors import UserError

Identity = dict[str, Any]


def identity(train: TrainLoader, val: EvalLoader, model: nn.Module, config: Config, world: World) -> Identity:
    """Classes, number of images and a hash of the sorted names of both splits; and the images behind a batch statistic,
    where the model has some.
    """
    found: Identity = {
        split: {"classes": list(loader.classes), "images": loader.num_images, "names": loader.records.digest()}
        for split, loader in (("train", train), ("val", val))
    }
    if norms(model):
        each = check_batch(config, world.size)
        found["statistics"] = {
            "images": each * world.size if config.train.sync_bn else each,
            "accumulation": config.train.accumulation,
        }
    return found


def check_same(kept: Identity | None, now: Identity, folder: Path) -> None:
    """Refuse to go on with other data than a run began with; checkpoints of before December 2026 keep none.

    Raises:
        UserError: says what differs.
    """
    if kept is None:
        return
    for split in ("train", "val"):
        before, after = kept[split], now[split]
        if before["classes"] != after["classes"]:
            there, here = (shown_names(each["classes"]) for each in (before, after))
            difference = f"{len(before['classes'])} classes ({there}), now {len(after['classes'])} ({here})"
        elif before["images"] != after["images"]:
            difference = f"{before['images']} images, now {after['images']}"
        elif before["names"] != after["names"]:
            difference = f"{before['images']} images of other names or in other classes than now"
        else:
            continue
        raise UserError(
            f"data: the run in {folder} began with {difference}, in its {split} split; go on with those data or choose "
            f"another output folder"
        )
    before, after = kept.get("statistics"), now.get("statistics")
    if before and after and before["accumulation"] != after["accumulation"] and before["images"] != after["images"]:
        raise UserError(
            f"train.accumulation: {after['accumulation']} puts {after['images']} images behind a batch statistic, the "
            f"run in {folder} began with {before['images']}, which it keeps with as many images for each rank and part"
        )
