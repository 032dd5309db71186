"""What every dense run has besides the library's hooks: bfloat16, plain checkpoints, records, strict starts."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from engine.dense.weights import load_start
from engine.files import write_atomic
from engine.records import DenseResult, RunFolder, ValidationRecord, log_lines, read_result
from engine.runfolder import device_name, git_commit
from engine.weights import file_hash


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward pass runs under bfloat16 autocast.

    The library's own AMP refuses the CPU and scales a loss that needs no scale.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(get_device().split(":")[0], dtype=torch.bfloat16):
            yield


_PLAIN_TYPES = (bool, int, float, str, type(None))


def _is_plain(value: object) -> bool:
    return all(isinstance(item, _PLAIN_TYPES) for item in (value if isinstance(value, list) else [value]))


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Leave out of checkpoints what only unsafe unpickling could read: the buffers that smooth the log's numbers.

    Weights, optimiser, schedule, iteration and the best score stay; a resumed run smooths its log anew.
    """

    priority = "LOWEST"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the plain values of the message hub."""
        hub = checkpoint["message_hub"]
        info = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in hub["runtime_info"].items()
        }
        info = {key: value for key, value in info.items() if _is_plain(value)}
        keys = {key: value for key, value in hub["resumed_keys"].items() if key in info}
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": info, "resumed_keys": keys}


@HOOKS.register_module()
class StartHook(Hook):
    """Begin with the weights of a whole model, the authors' and Swin's too, and say what they leave random."""

    priority = "VERY_HIGH"

    def __init__(self, path: str) -> None:
        self.path = path

    def before_train(self, runner: Runner) -> None:
        """Load the file after the library has initialised the model."""
        if runner.iter == 0:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            for line in load_start(model, self.path):
                runner.logger.warning(line)


def _lacks_validation(runner: Runner) -> bool:
    """Whether the checkpoint that a run goes on from was to be validated, and no line of ``log.jsonl`` says it was.

    Of the last checkpoint the end of the run takes care.
    """
    loop, lacking = runner.train_loop, [False]
    if is_main_process() and runner.val_loop is not None and 0 < runner.iter < runner.max_iters:
        at = runner.iter if isinstance(loop, IterBasedTrainLoop) else runner.epoch
        ended = isinstance(loop, IterBasedTrainLoop) or runner.iter == runner.epoch * len(loop.dataloader)
        lines = log_lines(Path(runner.work_dir, "log.jsonl"))
        written = any(values["iteration"] == runner.iter for _, values in lines)
        lacking = [ended and at >= loop.val_begin and at % loop.val_interval == 0 and not written]
    broadcast_object_list(lacking)  # validation takes all ranks
    return lacking[0]


def number(value: float) -> float | None:
    """A metric for JSON, which has no NaN: the evaluators' word for a class that does not occur."""
    return float(value) if math.isfinite(value) else None


@HOOKS.register_module()
class CurveHook(Hook):
    """Leave in ``log.jsonl`` what curves are drawn from: a line for each validation.

    The sum of the losses since the last validation travels in the checkpoints, so that a resumed run leaves the lines
    of a whole one.
    """

    def __init__(self) -> None:
        self._sum: float | torch.Tensor = 0.0
        self._steps, self._written = 0, -1

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take up the sum of the run that goes on."""
        self._sum, self._steps = checkpoint.get("losses", (0.0, 0))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Give the sum along."""
        checkpoint["losses"] = (float(self._sum), self._steps)

    def before_train(self, runner: Runner) -> None:
        """Leave out lines of steps that are trained again, and what a kill has cut."""
        self._path = Path(runner.work_dir, "log.jsonl")
        lines = (
            [values for _, values in log_lines(self._path) if values["iteration"] <= runner.iter] if runner.iter else []
        )
        self._written = lines[-1]["iteration"] if lines else -1
        if runner.iter in (0, self._written):
            self._sum, self._steps = 0.0, 0
        if is_main_process():
            write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the loss of a step, where it lies."""
        self._sum = self._sum + outputs["loss"].detach().double()
        self._steps += 1

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the line, once for each iteration."""
        if not self._steps or self._written == runner.iter:
            return
        record = ValidationRecord(
            epoch=None if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.epoch,
            iteration=runner.iter,
            train_loss=number(float(self._sum) / self._steps),
            metrics={name: number(value) for name, value in (metrics or {}).items()},
        )
        self._sum, self._steps, self._written = 0.0, 0, runner.iter
        if is_main_process():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record.to_json(), allow_nan=False) + "\n")


@HOOKS.register_module()
class ResultHook(Hook):
    """Leave `result.json` in the run folder, as train_cls.py does: what the last weights were measured to do.

    A validation that a stop has cut off is made when the run goes on, that of the last weights at the end. A
    finished run that is only resumed keeps its record; one that trains anew in the same folder replaces it.
    """

    priority = "LOWEST"

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def before_train(self, runner: Runner) -> None:
        """Remember where it starts, and the commit of the code that runs; the checkout may move on while it does."""
        self._commit, self._start, self._iteration = git_commit(), runner.iter, -1
        self._metrics: dict[str, float] = {}
        if runner.iter < runner.max_iters and is_main_process():
            Path(runner.work_dir, RunFolder.RESULT).unlink(missing_ok=True)  # its weights will not be the last
        if _lacks_validation(runner):
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Remember the metrics and the iteration that they belong to."""
        self._metrics, self._iteration = dict(metrics or {}), runner.iter

    def after_train(self, runner: Runner) -> None:
        """Write the record, unless it is there."""
        path = Path(runner.work_dir, RunFolder.RESULT)
        written = read_result(path) if path.exists() else None
        written = getattr(written, "iterations", None)
        finished = [written == runner.iter == self._start]
        broadcast_object_list(finished)  # the other machines may not see the file, and validation takes all ranks
        if finished[0] or runner.val_loop is None:
            return
        if self._iteration != runner.iter:
            runner.val_loop.run()
        if is_main_process():
            write_atomic(path, json.dumps(self._record(runner).to_json(), indent=2, allow_nan=False).encode())

    def _record(self, runner: Runner) -> DenseResult:
        dataset = runner.val_dataloader.dataset
        last = Path(runner.work_dir, "last_checkpoint")  # the name of a file; absent where none is wanted
        return DenseResult(
            metrics={name: number(value) for name, value in self._metrics.items()},
            iterations=runner.iter,
            eval_images=len(dataset),
            dataset=Path(getattr(dataset, "data_root", None) or "").name,
            seed=runner.seed,
            commit=self._commit,
            device=device_name(next(runner.model.parameters()).device),
            checkpoint_sha256=file_hash(Path(last.read_text(encoding="utf-8"))) if last.exists() else None,
            precision=self.precision,
        )
