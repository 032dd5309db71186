"""A run from its start to its end in this process: its folder's lock, its ranks, its watchdog."""

import logging
import os

from engine import runfolder, signals
from engine.build import initial_file, prepare_torch, with_num_classes
from engine.config import Config, check_batch
from engine.distributed import World, join_world, leaving
from engine.logs import check_wandb, set_up_text_log
from engine.records import RunResult, read_run
from engine.terminal import outlive_terminal
from engine.trainer import Trainer
from engine.watchdog import Watchdog

LOG = logging.getLogger(__name__)


def train(config: Config) -> RunResult:
    """Train, or go on with, the run that a config describes; do nothing when it is finished.

    Returns:
        What ``result.json`` in the run folder holds.

    Raises:
        UserError: what the user gave cannot be used.
        RunStopped: a signal came; the state is saved and the same call goes on.
        TrainingFailed: the run cannot go on.
    """
    with outlive_terminal():
        return _train(config)


def _train(config: Config) -> RunResult:
    stop = signals.watch()
    check_wandb(config.train.wandb)
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    config = with_num_classes(config)
    rank = int(os.environ.get("RANK", "0"))
    lock = runfolder.RunLock(config.output) if rank == 0 else None
    try:
        if rank == 0:
            runfolder.check_same_run(config.output, config)
        set_up_text_log(config.output, rank)
        if not (config.output / "checkpoints").exists():
            initial_file(config)  # a download may take longer than the ranks wait for each other
        prepare_torch(config)
        world = join_world(config.train.device, config.train.timeout)
        stop.defer()
        with Watchdog(world, config.train.timeout) as watchdog, leaving(world):
            return _finished(config, world) or Trainer(config, world, stop, watchdog).fit()
    finally:
        stop.act_at_once()
        if lock is not None:
            lock.release()


def _finished(config: Config, world: World) -> RunResult | None:
    """The result of a run that has ended before; None where there is still something to do."""
    path = config.output / "result.json"
    found = path.exists() and (config.output / "last.safetensors").exists()
    if not all(world.gather(found)):
        return None
    LOG.info("%s is finished: nothing to train", config.output)
    return read_run(config.output).finished()
