"""When a run ends before its last epoch because it does not get better."""

from engine.schema import TrainConfig
from engine.state import Progress


def reason_to_end(progress: Progress, train: TrainConfig) -> str | None:
    """Why a run ends after the epoch that it has just evaluated: ``train.patience`` epochs without a better top-1.

    It depends on what the checkpoints keep alone, so a run that goes on ends at the same epoch. None: it goes on, or it
    was the last epoch anyway.
    """
    patience, epoch = train.patience, progress.epoch
    if patience is None or epoch >= train.epochs or progress.last.get("epoch") != epoch:
        return None
    if epoch - progress.best_epoch < patience:
        return None
    return (
        f"train.patience: no better top-1 than the {progress.best_top1:.3f} of epoch {progress.best_epoch} in "
        f"{epoch - progress.best_epoch} epochs"
    )
