"""The life of a run: one at a time in its folder, from its config to its result."""

import json
import logging
import os
from typing import Any

from engine import runfolder, signals
from engine.config import Config, check_batch
from engine.distributed import World, join_world
from engine.logs import check_wandb, set_up_text_log
from engine.run import Run
from engine.setup import prepare_torch

LOG = logging.getLogger(__name__)


def train(config: Config) -> dict[str, Any]:
    """Train, or go on with, the run that a config describes; do nothing when it is finished.

    Returns:
        What ``result.json`` in the run folder holds.

    Raises:
        ConfigError: what the user gave cannot be used.
        RunStopped: a signal came; the state is saved and the same call goes on.
        TrainingFailed: the run cannot go on.
    """
    stop = signals.watch()
    check_wandb(config.train.wandb)
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    rank = int(os.environ.get("RANK", "0"))
    lock = runfolder.RunLock(config.output) if rank == 0 else None
    try:
        if rank == 0:
            runfolder.check_same_run(config.output, config)
        set_up_text_log(config.output, rank)
        prepare_torch(config)
        world = join_world(config.train.device, config.train.timeout)
        stop.defer()
        try:
            return _finished(config, world) or Run(config, world, stop).fit()
        finally:
            world.close()
    finally:
        stop.act_at_once()
        if lock is not None:
            lock.release()


def _finished(config: Config, world: World) -> dict[str, Any] | None:
    """The result of a run that has ended before; None where there is still something to do."""
    path = config.output / "result.json"
    found = path.exists() and (config.output / "last.safetensors").exists()
    if not all(world.gather(found)):
        return None
    LOG.info("%s is finished: nothing to train", config.output)
    return json.loads(path.read_text(encoding="utf-8"))
