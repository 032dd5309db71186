"""Data sets, transforms, samplers and loaders. See docs/data.md."""

from data.batch import Batch
from data.config import DataConfig
from data.errors import CorruptImageError, WorkerError
from data.loader import EvalLoader, TrainLoader, build_eval_loader, build_train_loader
from data.mixup import build_mixup

__all__ = [
    "Batch",
    "CorruptImageError",
    "DataConfig",
    "EvalLoader",
    "TrainLoader",
    "WorkerError",
    "build_eval_loader",
    "build_mixup",
    "build_train_loader",
]
