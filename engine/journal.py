"""What a run says while it goes: lines on the screen and in ``train.log``, ``log.jsonl``, TensorBoard and W&B."""

import logging

from engine import runfolder
from engine.checkpoint import CheckpointFolder
from engine.config import Config, to_dict
from engine.distributed import World
from engine.logs import RecordLog, Trackers, duration
from engine.records import EpochRecord, StepRecord
from engine.state import Progress
from models.errors import UserError

LOG = logging.getLogger(__name__)


class Journal:
    """The records of a run's steps and epochs; rank 0 keeps them, every rank says them to its log."""

    def __init__(self, config: Config, world: World, progress: Progress, checkpoints: CheckpointFolder) -> None:
        """Open the run folder, and forget what its records say of steps after ``progress``.

        Raises:
            UserError: the folder cannot be written, or W&B is asked for and not installed.
        """
        self.epochs = config.train.epochs
        self.records: RecordLog | None = None
        self.trackers: Trackers | None = None
        if not world.is_main:
            return
        folder, train = config.output, config.train
        self.records = RecordLog(folder / "log.jsonl")
        try:
            checkpoints.set_damaged_aside()
            runfolder.record_start(folder, config, world, progress.step)
            self.records.cut_back(progress.step, progress.epoch)
        except OSError as error:
            raise UserError(f"output: the run folder {folder} cannot be written ({error.strerror})") from None
        self.trackers = Trackers(folder, train.tensorboard, train.wandb, to_dict(config), progress.step)

    def step(self, record: StepRecord) -> None:
        """Write what has happened since the last of these."""
        self._keep(record)
        loss = "none" if record.loss is None else f"{record.loss:.4f}"
        norm = "none" if record.grad_norm is None else f"{record.grad_norm:.3f}"
        LOG.info(
            "epoch %d/%d step %d  loss %s  lr %.3e  grad norm %s  %.0f images/s  data %.3f s  step %.3f s  "
            "memory %.2f GiB  left %s",
            *(record.epoch, self.epochs, record.step, loss, record.lr, norm),
            *(record.images_per_second, record.data_seconds, record.step_seconds, record.memory_gib),
            duration(record.eta_seconds),
        )

    def epoch(self, record: EpochRecord) -> None:
        """Write the end of an epoch, with its accuracy where it was measured."""
        self._keep(record)
        if record.top1 is not None:
            LOG.info(
                "epoch %d/%d  top-1 %.3f  top-5 %.3f  of %d images in %.1f s",
                *(record.epoch, self.epochs, record.top1, record.top5, record.images, record.eval_seconds),
            )

    def _keep(self, record: StepRecord | EpochRecord) -> None:
        if self.records is not None and self.trackers is not None:
            self.records.write(record)
            self.trackers.write(record)

    def close(self) -> None:
        """Flush and close what is open."""
        if self.trackers is not None:
            self.trackers.close()
