"""What a model said of each image of an evaluation: a row an image, and which classes it takes for which."""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data import EvalLoader
from engine.distributed import World
from engine.files import write_atomic
from engine.labels import Metric, guesses, only_outputs
from models.errors import UserError

COLUMNS = ("file", "true_class", "predicted_class", "probability")


class Answers:
    """A metric that also keeps the first guess for each image; whole on every rank after :meth:`share`.

    Args:
        metric: what counts the right answers.
        loader: the images, with their labels and the names of all classes.
    """

    def __init__(self, metric: Metric, loader: EvalLoader, device: torch.device) -> None:
        self._metric, self._loader = metric, loader
        self._outputs = None if loader.class_outputs is None else loader.class_outputs.to(device)
        self._guesses = torch.zeros(loader.num_images, dtype=torch.int64, device=device)
        self._probabilities = torch.zeros(loader.num_images, dtype=torch.float32, device=device)
        self.classes: list[str] = loader.classes
        """Names in the order of the outputs."""

    def __call__(self, logits: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        """See :class:`engine.labels.Metric`."""
        allowed = only_outputs(logits, self._outputs)
        first = guesses(allowed)[:, 0]
        places = indices.to(first.device)
        self._guesses[places] = first
        self._probabilities[places] = allowed.softmax(1).gather(1, first[:, None])[:, 0]
        return self._metric(logits, targets, indices)

    def share(self, world: World) -> None:
        """Put together what the ranks have seen: each image was on one of them, and is zero on the others."""
        world.total(self._guesses)
        world.total(self._probabilities)

    def confusion(self) -> np.ndarray:
        """Images by their class and what was guessed: int64 (true, guessed)."""
        count = len(self.classes)
        pairs = self._loader.records.labels.astype(np.int64) * count + self._guesses.cpu().numpy()
        return np.bincount(pairs, minlength=count * count).reshape(count, count)

    def per_class(self) -> dict[str, dict[str, float]]:
        """Percent of right answers and number of images of each class that has images."""
        table = self.confusion()
        images, right = table.sum(1).tolist(), table.diagonal().tolist()
        return {
            name: {"top1": round(100.0 * right[number] / images[number], 4), "images": images[number]}
            for number, name in enumerate(self.classes)
            if images[number]
        }

    def write(self, path: Path) -> None:
        """Write a CSV table with the columns :data:`COLUMNS`, one row an image, in the order of the data.

        The probability is that of the guess, among the classes that can be guessed.

        Raises:
            OSError: it cannot be written.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        found = zip(self._guesses.tolist(), self._probabilities.tolist(), strict=True)
        for index, (guess, probability) in enumerate(found):
            label = int(self._loader.records.labels[index])
            row = (self._loader.path(index), self.classes[label], self.classes[guess], f"{probability:.6f}")
            table.writerow(row)
        write_atomic(path, text.getvalue().encode())


def check_outputs(predictions: Path | None, confusion: Path | None, labels: str) -> None:
    """Refuse, before hours of evaluation, what could not be written after them; make the folders.

    Raises:
        UserError: another suffix than .csv and .png, a folder that cannot be written, or ReaL labels, where an image
            may have several classes or none.
    """
    for option, path, suffix in (("--predictions", predictions, ".csv"), ("--confusion", confusion, ".png")):
        if path is None:
            continue
        if labels != "original":
            raise UserError(f"{option}: eval.labels={labels} gives an image several classes or none; use original")
        if path.suffix.lower() != suffix:
            raise UserError(f"{option} {path}: must end in {suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{option} {path}: its folder cannot be made ({error.strerror})") from None
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UserError(f"{option} {path}: cannot be written")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk that refuses into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
