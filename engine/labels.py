"""Which answers are right: the data set's own labels, or the reassessed labels of ImageNet (ReaL)."""

import json
import re
from importlib.resources import files
from typing import Protocol

import torch
from torch import Tensor

from data import EvalLoader
from data.classes import imagenet_classes, shown_names
from models.errors import UserError

TOP = 5
_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?:_n\d{8})?\.", re.IGNORECASE)  # Hugging Face's copy adds the synset


class Metric(Protocol):
    """Counts right answers of a batch."""

    def __call__(self, logits: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        """int64 (3,): images that count, right at the first guess, right within five guesses.

        Args:
            logits: float (n, classes). targets: int64 (n,). indices: int64 (n,), numbers in the image list.
        """


class TopKAccuracy:
    """One right class for each image.

    Args:
        outputs: the only outputs of the model that can be guessed, where they are fewer (ImageNet-A and -R).
    """

    def __init__(self, outputs: Tensor | None = None) -> None:
        self._outputs = outputs

    def __call__(self, logits: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        """See :class:`Metric`."""
        right = guesses(only_outputs(logits, self._outputs)) == targets.view(-1, 1)
        return _tally(right, torch.ones_like(targets, dtype=torch.bool))


class RealAccuracy:
    """Any number of right classes for each image of ImageNet's validation set (Beyer et al., 2020).

    Images without a label are left out, as the definition says. Images are known by their file name, not their place.
    """

    def __init__(self, loader: EvalLoader, device: torch.device) -> None:
        """Look up the labels of all images of a loader.

        Raises:
            UserError: an image is not named as in ImageNet's validation set.
        """
        published = real_labels()
        rows = [published[_number(loader.name(i), len(published))] for i in range(loader.num_images)]
        width = max(1, max(map(len, rows), default=1))
        padded = [row + [-1] * (width - len(row)) for row in rows]
        self._labels = torch.tensor(padded, dtype=torch.int64, device=device).view(-1, width)

    def __call__(self, logits: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        """See :class:`Metric`."""
        labels = self._labels[indices.to(self._labels.device)]
        right = (guesses(logits).unsqueeze(2) == labels.unsqueeze(1)).any(2)
        return _tally(right, labels[:, 0] >= 0)


def real_labels() -> list[list[int]]:
    """The classes of each of ImageNet's 50,000 validation images, in the order of their numbers; some have none."""
    return json.loads(files("timm.data").joinpath("_info", "imagenet_real_labels.json").read_text())


def build_metric(labels: str, loader: EvalLoader, num_classes: int, device: torch.device) -> Metric:
    """The metric that ``eval.labels`` names.

    Raises:
        UserError: the model has too few classes, or ReaL labels are asked for what is not ImageNet's.
    """
    if loader.num_classes > num_classes:
        raise UserError(
            f"model.num_classes: {num_classes} is below the {loader.num_classes} classes of {loader.dataset_name}"
        )
    if labels == "original":
        outputs = loader.class_outputs
        return TopKAccuracy(None if outputs is None else outputs.to(device))
    if num_classes != 1000:
        raise UserError(f"eval.labels: real needs the 1000 classes of ImageNet, model.num_classes is {num_classes}")
    if loader.classes != imagenet_classes() and not loader.records.numbered:
        raise UserError(
            f"eval.labels: real needs the 1000 classes of ImageNet, the model's are {shown_names(loader.classes)}"
        )
    return RealAccuracy(loader, device)


def only_outputs(logits: Tensor, outputs: Tensor | None) -> Tensor:
    """The logits (n, classes) with minus infinity for all but ``outputs``; None: as they are."""
    if outputs is None:
        return logits
    return torch.full_like(logits, -torch.inf).index_copy(1, outputs, logits[:, outputs])


def guesses(logits: Tensor) -> Tensor:
    """The classes with the highest logits, best first: int64 (n, 5), or fewer columns with fewer classes."""
    return logits.topk(min(TOP, logits.shape[1]), dim=1).indices


def _tally(right: Tensor, counted: Tensor) -> Tensor:
    """Counts from ``right`` (n, guesses) and which images count, bool (n,)."""
    right = right & counted.unsqueeze(1)
    return torch.stack([counted.sum(), right[:, 0].sum(), right.any(1).sum()])


def _number(name: str, count: int) -> int:
    match = _NAME.search(name)
    if match is None or not 1 <= int(match[1]) <= count:
        raise UserError(
            f"eval.labels: real needs images named ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{count:08d}.JPEG, "
            f"not {name}"
        )
    return int(match[1]) - 1
