"""What a run says: a bar on a terminal, plain lines in a log, one JSON record per event, TensorBoard, W&B."""

import importlib.util
import json
import logging
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from engine.files import write_atomic
from engine.records import EpochRecord, StepRecord
from engine.runfolder import leaves
from models.errors import UserError

LOG = logging.getLogger("engine")


def set_up_text_log(folder: Path | None, rank: int) -> None:
    """Send the log to stderr and ``train.log``; ranks other than 0 say only errors, on stderr.

    Args:
        folder: the run folder; None for no file.
    """
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    LOG.propagate = False
    LOG.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    who = "" if rank == 0 else f"[rank {rank}] "
    screen = _Screen()
    screen.setFormatter(logging.Formatter(f"{who}%(message)s"))
    LOG.addHandler(screen)
    if folder is not None and rank == 0:
        file = _File(folder / "train.log", encoding="utf-8", delay=True)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(file)


class _Screen(logging.Handler):
    """Lines on stderr that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
        sys.stderr.flush()


class _File(logging.FileHandler):
    """A log file whose disk may fill up: what cannot be written is lost, and the run goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: the line has been on the screen, and a traceback for each would drown it."""


class RecordLog:
    """``log.jsonl``: one JSON object per line, ``{"kind": "step" | "epoch", "step": n, ...}``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False

    def cut_back(self, step: int, epoch: int) -> None:
        """Forget what lies after a checkpoint that the run goes on from, so that nothing stands twice.

        Raises:
            OSError: the file cannot be rewritten.
        """
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line that a kill cut short
            if record["epoch"] <= epoch if record["kind"] == "epoch" else record["step"] <= step:
                kept.append(line + "\n")
        write_atomic(self.path, "".join(kept).encode())

    def write(self, record: StepRecord | EpochRecord) -> None:
        """Append a record; a full disk costs the record and one loud line, not the run."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record.to_json()) + "\n")
            self._failed = False
        except OSError as error:
            if not self._failed:
                LOG.error("CANNOT WRITE %s: %s; training goes on", self.path, error)
            self._failed = True


# Where a record stands and how far the run is: numbers, but none to compare runs by.
NO_METRICS = ("kind", "step", "epoch", "eta_seconds", "images")


def _hyperparameters(about: dict) -> tuple[Any, ...]:
    """A resolved config for TensorBoard's page HPARAMS; `SummaryWriter.add_hparams` would make a run of its own."""
    from torch.utils.tensorboard.summary import hparams

    values = {key: value if isinstance(value, int | float | str) else str(value) for key, value in leaves(about)}
    return hparams(values, {"epoch/top1": None, "epoch/train_loss": None})


def _board_id(folder: Path) -> str:
    """What tells this run from all others of a project, kept in its folder: names of folders come again."""
    path = folder / "wandb.id"
    if not path.is_file():
        write_atomic(path, uuid.uuid4().hex.encode())
    return path.read_text().strip()


class Trackers:
    """TensorBoard and Weights & Biases, where asked for. A board that fails is given up, loudly."""

    def __init__(self, folder: Path, tensorboard: bool, wandb_project: str | None, about: dict, step: int) -> None:
        """Open the trackers; ``step`` is where the run goes on from.

        Raises:
            UserError: W&B is asked for and not installed.
        """
        self._tensorboard: Any = None
        self._wandb: Any = None
        if wandb_project is not None:
            name, place, own = folder.name, str(folder), _board_id(folder)
            self._wandb = _import_wandb().init(
                project=wandb_project, name=name, dir=place, config=about, resume="allow", id=own
            )
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
            for summary in _hyperparameters(about):
                self._tensorboard.file_writer.add_summary(summary)

    def write(self, record: StepRecord | EpochRecord) -> None:
        """Draw the metrics of a record over its step."""
        values = {
            f"{record.kind}/{key}": value
            for key, value in record.to_json().items()
            if isinstance(value, int | float) and key not in NO_METRICS
        }
        try:
            if self._tensorboard is not None:
                for key, value in values.items():
                    self._tensorboard.add_scalar(key, value, record.step)
                if record.kind == "epoch":
                    self._tensorboard.flush()
            if self._wandb is not None:
                self._wandb.log(values, step=record.step)
        except Exception as error:  # a board must never end a run
            LOG.error("CANNOT WRITE to TensorBoard or W&B: %s; no more is written there, training goes on", error)
            self._tensorboard = self._wandb = None

    def close(self) -> None:
        """Flush and close."""
        try:
            if self._tensorboard is not None:
                self._tensorboard.close()
            if self._wandb is not None:
                self._wandb.finish()
        except Exception as error:  # as above
            LOG.error("cannot close TensorBoard or W&B: %s", error)


def check_wandb(project: str | None) -> None:
    """Raises UserError when W&B is asked for and not installed."""
    if project is not None:
        _import_wandb()


def _import_wandb() -> Any:
    if importlib.util.find_spec("wandb") is None:
        raise UserError("train.wandb: the package wandb is not installed; pip install wandb, or leave the key out")
    import wandb

    return wandb


class Bar:
    """The progress of an epoch: a bar where stderr is a terminal, nothing otherwise (the log has lines)."""

    def __init__(self, epoch: int, epochs: int, total: int, done: int, shown: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            initial=done,
            desc=f"epoch {epoch + 1}/{epochs}",
            unit="step",
            disable=not (shown and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
        )

    def step(self, **values: str) -> None:
        """One step further, with values to show."""
        if not self._bar.disable:
            self._bar.set_postfix(values, refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def duration(seconds: float) -> str:
    """``1d 02:03:04``, without days where there are none."""
    days, rest = divmod(int(seconds), 86400)
    clock = time.strftime("%H:%M:%S", time.gmtime(rest))
    return f"{days}d {clock}" if days else clock
