"""Checkpoints of dense runs that a full disk or a kill cannot take away, and statistics that all processes share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from engine.batchnorm import BatchNormStats
from engine.distributed import World
from engine.files import flush_folder, write_atomic


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """The library's hook, but a new checkpoint is on the disk, whole, before an old one goes.

    The library removes the oldest first and writes the new one in place: with one kept, a full disk or a kill between
    the two leaves none to go on from.
    """

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        old = self._take_place(runner, step)
        path = Path(self.out_dir, self.filename_tmpl.format(step))
        self.last_ckpt = str(path)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        partial = path.with_name(f".{path.name}.partial")
        with _removed_on_failure(partial):
            runner.save_checkpoint(
                *(self.out_dir, partial.name, self.file_client_args),
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                _publish(partial, path)
        if is_main_process():
            write_atomic(Path(runner.work_dir, "last_checkpoint"), str(path).encode())
            if old is not None:
                Path(self.out_dir, self.filename_tmpl.format(old)).unlink(missing_ok=True)

    def _take_place(self, runner: Runner, step: int) -> int | None:
        """Note the step among those that are kept; the one that goes for it."""
        kept = self.keep_ckpt_ids if self.max_keep_ckpts > 0 else None
        if kept is None or (kept and kept[-1] == step):
            return None
        old = kept.popleft() if len(kept) == self.max_keep_ckpts else None
        kept.append(step)
        runner.message_hub.update_info("keep_ckpt_ids", list(kept))
        return old


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _publish(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    flush_folder(path.parent)


def keep_whole_checkpoints(config: Config) -> None:
    """Put :class:`WholeCheckpointHook` in the place of the library's."""
    hooks = config.setdefault("default_hooks", {})
    wanted = hooks.setdefault("checkpoint", {"type": "CheckpointHook", "interval": 1})
    if wanted and wanted.get("type") == "CheckpointHook":
        wanted["type"] = "WholeCheckpointHook"


@HOOKS.register_module()
class SharedStatisticsHook(Hook):
    """Average the running statistics of batch norms over the processes after each iteration, as classifiers' runs do.

    So every process validates the network that rank 0 saves. Synchronised norms have nothing to average.
    """

    priority = "VERY_HIGH"  # before a checkpoint is written

    def before_train(self, runner: Runner) -> None:
        """Find the statistics and the processes."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._statistics = BatchNormStats(model)
        self._world = World(get_rank(), get_world_size(), next(model.parameters()).device)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Average."""
        self._statistics.average(self._world)
