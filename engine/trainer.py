"""The loop of a run: epochs of steps, checkpoints between them, evaluation after them."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import torch

from data import Batch, build_mixup
from engine.batchnorm import batch_warning
from engine.build import (
    build_loaders,
    build_state,
    distribute,
    load_initial,
    plain_model,
)
from engine.checkpoint import CheckpointFolder, CheckpointSaver
from engine.class_weights import weigh
from engine.config import Config, check_batch
from engine.distributed import World
from engine.errors import RankFailed, RunStopped, TrainingFailed
from engine.evaluate import Accuracy, evaluate
from engine.freeze import freeze, train_mode
from engine.identity import check_same, identity
from engine.journal import Journal
from engine.labels import build_metric
from engine.logs import Bar
from engine.meter import Meter, StepProfiler
from engine.nonfinite import diagnose, write_dump
from engine.optim import effective_rates
from engine.outputs import OutputWriter
from engine.patience import reason_to_end
from engine.reader import BEHIND, StepReader
from engine.records import EpochRecord, RunResult
from engine.replaced import ReplacedImages
from engine.signals import StopRequest
from engine.step import StepResult, train_step
from engine.watchdog import Watchdog

LOG = logging.getLogger(__name__)
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")  # as gloo says it


class Trainer:
    """A run between its start and its end in this process."""

    def __init__(self, config: Config, world: World, stop: StopRequest, watchdog: Watchdog) -> None:
        """Build everything, or take it from the newest intact checkpoint.

        Raises:
            UserError, TrainingFailed: as :func:`engine.run.train`.
        """
        self.config, self.world, self.stop, self.watchdog = config, world, stop, watchdog
        self.loader, self.eval_loader = build_loaders(config, world)
        self.metric = build_metric(config.eval.labels, self.eval_loader, config.model.num_classes, world.device)
        self.steps_per_epoch = len(self.loader) // config.train.accumulation
        checkpoints = CheckpointFolder(config.output / "checkpoints", config.train.keep)
        model = plain_model(config)
        saved = checkpoints.load()
        notes = load_initial(model, config, self.loader.classes) if saved is None else []
        notes += freeze(model, config.train.freeze)
        self.state = build_state(model, config, world, self.steps_per_epoch)
        steps = world.gather(None if saved is None else saved.step)
        if len(set(steps)) > 1:
            raise TrainingFailed(f"ranks see different checkpoints {steps}: all machines must share {config.output}")
        self.state.data = identity(self.loader, self.eval_loader, model, config, world)
        if len({repr(data) for data in world.gather(self.state.data)}) > 1:
            raise TrainingFailed("ranks see different data: classes, images or names of data.root are not the same")
        if saved is not None:
            check_same(saved.state.get("data"), self.state.data, config.output)
            self.state.restore(saved.state)
        self.replaced = ReplacedImages(config.output, self.loader, world, config.data.max_corrupt)
        if saved is not None:
            self.replaced.take_up()
        distribute(self.state, config, world)
        mix = build_mixup(config.data, config.model.num_classes)
        self.mix = weigh(mix, config.train.class_weights, self.loader)
        self.saver = CheckpointSaver(
            checkpoints if world.is_main else None, config.train.save_every, self.state.progress.step
        )
        self.meter = Meter(config.train.batch_size, world)
        self.reader = StepReader(self.state.progress, self.meter, config.train.max_bad_steps, self._give_up)
        self._open_folder(checkpoints, notes)

    def _open_folder(self, checkpoints: CheckpointFolder, notes: list[str]) -> None:
        config, progress = self.config, self.state.progress
        self.results = OutputWriter(config, self.world, self.loader.dataset_name, self.loader.classes)
        self.journal = Journal(config, self.world, progress, checkpoints)
        for line in notes:
            LOG.info(line)
        warning = batch_warning(
            self.state.model, check_batch(config, self.world.size), self.world, config.train.bn_batch
        )
        if warning:
            LOG.warning("WARNING: %s", warning)
        LOG.info(
            "%s on %s: %d images, %d steps per epoch of %d images, %d ranks, from step %d; results in %s",
            *(config.model.name, self.loader.dataset_name, self.loader.num_images, self.steps_per_epoch),
            *(config.train.batch_size, self.world.size, progress.step, config.output),
        )
        LOG.info("rates: %s", effective_rates(config.train))

    def fit(self) -> RunResult:
        """Train to the end of the last epoch and return the result. Raises as :func:`engine.run.train`."""
        self.profiler = StepProfiler(self.config.output, self.world, self.config.train.profile)
        try:
            progress, train = self.state.progress, self.config.train
            while progress.epoch < train.epochs and not reason_to_end(progress, train):
                self._train_epoch()
                self._evaluate_epoch()
            if reason := reason_to_end(progress, train):
                LOG.info("the run ends after epoch %d of %d: %s", progress.epoch, train.epochs, reason)
            self.watchdog.at("the end")
            self.saver.insist(self.state, self.config.train.timeout)
            return self.results.finish(self.state, self.config.train.timeout)
        except TrainingFailed:
            raise
        except RuntimeError as error:
            raise self._in_words(error) or error from error
        finally:
            self.profiler.close()
            self.journal.close()
            self.loader.close()
            self.eval_loader.close()
            self.state.network = self.state.model  # the distributed wrapper goes before the process group does

    def _in_words(self, error: RuntimeError) -> RankFailed | None:
        """A loader worker's death, which interrupts whatever runs, or the loss of another rank, in one line."""
        who, text = f"rank {self.world.rank}", " ".join(str(error).split())
        if "DataLoader worker" in text:
            return RankFailed(f"{who}: WorkerError: a loader worker died: {text[:200]}")
        if self.world.size > 1 and any(sign in text for sign in LOST):
            return RankFailed(f"{who} has lost another rank, whose own message says why: {text[:200]}")
        return None

    def _train_epoch(self) -> None:
        """The steps that the present epoch still lacks; none when only its evaluation is missing."""
        progress, parts = self.state.progress, self.config.train.accumulation
        done = progress.step - progress.epoch * self.steps_per_epoch
        if done == 0:
            progress.loss_sum, progress.loss_steps = 0.0, 0
        if done == self.steps_per_epoch:
            return
        train_mode(self.state.model)
        batches = self.loader.epoch(progress.epoch, start=done * parts)
        bar = Bar(progress.epoch, self.config.train.epochs, self.steps_per_epoch, done, self.world.is_main)
        try:
            for _ in range(done, self.steps_per_epoch):
                began = time.perf_counter()
                self.watchdog.at(f"step {progress.step}, waiting for data")
                part = self._fetch(batches)
                waited = time.perf_counter() - began
                self.watchdog.at(f"step {progress.step}")
                self.reader.add(train_step(self.state, part, self.mix, self.config.train, self.world), part)
                self.reader.catch_up(0 if self._log_due() or self._save_due() else BEHIND)
                seconds = time.perf_counter() - began
                self.meter.spend(seconds, waited)
                progress.train_seconds += seconds
                if self._log_due():
                    left = self.config.train.epochs * self.steps_per_epoch - progress.step
                    self.journal.step(self.meter.report(progress.step, progress.epoch + 1, left))
                if self._save_due():
                    self.saver.save(self.state)
                self.profiler.step()
                self._show(bar, self.config.train.batch_size / seconds)
        finally:
            bar.close()

    def _log_due(self) -> bool:
        return self.state.progress.step % self.config.train.log_every == 0

    def _save_due(self) -> bool:
        step = self.state.progress.step
        return self.saver.due(step) or step % self.steps_per_epoch == 0

    def _show(self, bar: Bar, speed: float) -> None:
        """The bar shows the last step that has been read."""
        result = self.reader.last
        if result is not None:
            bar.step(loss=f"{result.loss:.3f}", lr=f"{result.lr:.2e}", images_s=f"{speed:.0f}")

    def _fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of a step; before it, all ranks agree that none wants to stop and none lacks data."""
        part: list[Batch] = []
        fault = None
        try:
            part = [next(batches) for _ in range(self.config.train.accumulation)]
        except Exception as error:  # whatever a loader raises, the other ranks must hear of it
            fault = f"{type(error).__name__}: {error}"
        self.watchdog.at(f"step {self.state.progress.step}, waiting for the other ranks")
        stopped, failed = self.world.largest(int(bool(self.stop)), int(fault is not None))
        if stopped:
            self._stop()
        if failed:
            self.replaced.list()
            faults = [f"rank {rank}: {text}" for rank, text in enumerate(self.world.gather(fault)) if text]
            raise TrainingFailed("training cannot read its images: " + "; ".join(faults))
        return part

    def _stop(self) -> None:
        self.reader.catch_up()
        self.saver.save(self.state)
        progress = self.state.progress
        names = [name for name in self.world.gather(self.stop.received) if name]
        saved = self.world.gather(self.saver.saved)[0]  # rank 0 writes
        if saved != progress.step:
            raise TrainingFailed(
                f"stopped by {names[0]} after step {progress.step}, whose state CANNOT BE SAVED (see above): the same "
                f"command goes on from step {saved}"
            )
        raise RunStopped(f"stopped by {names[0]} after step {progress.step}; the same command goes on from there")

    def _give_up(self, last: StepResult, batches: list[Batch]) -> NoReturn:
        """Find the module that is not finite and end the run."""
        found = diagnose(self.state, last.number, batches, self.mix, self.config.train, self.world)
        findings = self.world.gather(found)
        named = next((f.first_bad for f in findings if f.first_bad), "nothing when the step is run again")
        where = ""
        if self.world.is_main:
            where = f"; see {write_dump(self.config.output, last.number, findings)}"
        raise TrainingFailed(
            f"loss or gradient was not finite in {self.state.progress.bad_in_row} steps in a row, last in step "
            f"{last.number}; first bad: {named}{where}"
        )

    def _evaluate_epoch(self) -> None:
        """Measure accuracy if it is this epoch's turn, publish weights, and begin the next epoch."""
        progress, config = self.state.progress, self.config
        epoch = progress.epoch + 1
        accuracy = None
        if epoch % config.eval.every == 0 or epoch == config.train.epochs:
            accuracy = self._evaluate()
        record = EpochRecord(
            epoch=epoch,
            step=progress.step,
            skipped=progress.skipped,
            train_loss=progress.loss_sum / progress.loss_steps if progress.loss_steps else None,
            replaced_images=self.replaced.count(),
        )
        if accuracy is not None:
            found: dict[str, Any] = {"top1": accuracy.top1, "top5": accuracy.top5, "images": accuracy.images}
            record = replace(record, **found, eval_seconds=accuracy.seconds)
            progress.last = {"epoch": epoch, **found}
        self.journal.epoch(record)
        progress.epoch = epoch
        self.results.publish(self.state, accuracy)

    def _evaluate(self) -> Accuracy:
        model = self.state.best_weights(self.config.eval.ema)
        how = self.config.eval.precision
        try:
            # What is compiled is the training pass; evaluating by it would compile everything again for the other mode.
            with torch.compiler.set_stance("force_eager"):
                return evaluate(
                    *(model, self.eval_loader, self.metric, self.world, self.config.train),
                    *(self.stop, self.watchdog.at, how),
                )
        except RunStopped:
            self._stop()
            raise
