"""What a run leaves for others: ``last.safetensors``, ``best.safetensors`` and ``result.json``."""

import json
import logging
from typing import Any

from engine import runfolder
from engine.checkpoint import insist_on_writing, try_writing
from engine.config import Config, to_dict
from engine.distributed import World
from engine.evaluate import Accuracy
from engine.files import write_atomic
from engine.patience import reason_to_end
from engine.records import RunFolder, RunResult
from engine.state import TrainState
from engine.weights import file_hash, read_about, save_weights

LOG = logging.getLogger(__name__)
TRAINED = "the run is trained and its checkpoint is kept"


class OutputWriter:
    """Writes the weights after each epoch and the result after the last. Only rank 0 writes."""

    def __init__(self, config: Config, world: World, dataset: str, classes: list[str]) -> None:
        self._config, self._world, self._dataset, self._classes = config, world, dataset, classes
        self._commit = runfolder.git_commit()  # of the code that runs; the checkout may move on while it does
        self._last = config.output / "last.safetensors"
        self._best = config.output / "best.safetensors"

    def publish(self, state: TrainState, accuracy: Accuracy | None) -> None:
        """Write the last weights, and the best ones when ``accuracy`` is the highest top-1 so far."""
        progress = state.progress
        if best := accuracy is not None and accuracy.top1 > progress.best_top1:
            progress.best_top1, progress.best_epoch = accuracy.top1, progress.epoch
        if not self._world.is_main:
            return
        try_writing(str(self._last), lambda: self._write(self._last, state))
        if best:
            try_writing(str(self._best), lambda: self._write(self._best, state))

    def finish(self, state: TrainState, seconds: float) -> RunResult:
        """Write ``result.json`` and return what it holds; wait up to ``seconds`` for a disk that refuses.

        Raises:
            TrainingFailed: the disk has refused for that long.
        """
        if not self._world.is_main:
            return self._result(state, None, None)
        insist_on_writing(str(self._last), lambda: self._write(self._last, state), seconds, TRAINED)
        result = self._result(state, file_hash(self._last), self._finished_best(state, seconds))
        text = json.dumps(result.to_json(), indent=2).encode()
        path = self._config.output / RunFolder.RESULT
        insist_on_writing(str(path), lambda: write_atomic(path, text), seconds, TRAINED)
        return result

    def _finished_best(self, state: TrainState, seconds: float) -> str | None:
        """The hash of the best weights, written again where a disk has refused them after this very epoch.

        None where those of an earlier epoch were refused: what is in the file then is not what ``best_epoch`` says.
        """
        progress = state.progress
        if self._epoch_of_best() != progress.best_epoch == progress.epoch:
            insist_on_writing(str(self._best), lambda: self._write(self._best, state), seconds, TRAINED)
        held = self._epoch_of_best()
        if held == progress.best_epoch:
            return file_hash(self._best)
        LOG.warning(
            "WARNING: the weights of the best epoch, %d, could not be written when it ended; %s holds %s",
            *(progress.best_epoch, self._best, "nothing" if held is None else f"those of epoch {held}"),
        )
        return None

    def _epoch_of_best(self) -> int | None:
        """The epoch whose weights are in ``best.safetensors``; None without one."""
        return read_about(self._best).get("epoch") if self._best.is_file() else None

    def _write(self, path: Any, state: TrainState) -> None:
        progress = state.progress
        about = {
            "model": to_dict(self._config)["model"],
            "dataset": self._dataset,
            "classes": self._classes,
            "epoch": progress.epoch,
            "step": progress.step,
            "evaluation": progress.last,
            "averaged": self._config.train.save_ema and state.ema is not None,
        }
        save_weights(path, dict(state.best_weights(self._config.train.save_ema).state_dict()), about)

    def _result(self, state: TrainState, last: str | None, best: str | None) -> RunResult:
        progress, config = state.progress, self._config
        images = progress.step * config.train.batch_size
        return RunResult(
            model=config.model.name,
            dataset=self._dataset,
            top1=progress.last.get("top1"),
            top5=progress.last.get("top5"),
            eval_images=progress.last.get("images"),
            labels=config.eval.labels,
            best_top1=progress.best_top1,
            best_epoch=progress.best_epoch,
            params=sum(p.numel() for p in state.model.parameters()),
            images_per_second=images / progress.train_seconds if progress.train_seconds else None,
            train_seconds=progress.train_seconds,
            epochs=progress.epoch,
            steps=progress.step,
            skipped_steps=progress.skipped,
            seed=config.train.seed,
            ranks=self._world.size,
            commit=self._commit,
            device=runfolder.device_name(self._world.device),
            checkpoint_sha256=last,
            best_sha256=best,
            precision=config.train.precision,
            classes=self._classes,
            ended_early=reason_to_end(progress, config.train),
        )
