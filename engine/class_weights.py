"""Classes that count more than others in the loss."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from data import TrainLoader
from engine.step import Mix
from models.errors import UserError, hint

Weights = str | Sequence[float] | Mapping[str, float] | None


def weigh(mix: Mix, given: Weights, loader: TrainLoader) -> Mix:
    """``mix`` with its soft targets multiplied by ``train.class_weights``.

    The cross-entropy is linear in its targets, so this is the weighted one: the mean over the images of
    -sum_c w_c t_c log p_c, as torch's ``cross_entropy(logits, targets, weight=w)``.

    Raises:
        UserError: the weights are not those of the data's classes.
    """
    if given is None:
        return mix
    weights = weights_of(given, loader.classes, loader.records.labels)

    def weighed(images: Tensor, targets: Tensor, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        nonlocal weights
        images, soft = mix(images, targets, key)
        weights = weights.to(soft)  # goes to the device once
        return images, soft * weights

    return weighed


def weights_of(given: Weights, classes: Sequence[str], labels: np.ndarray) -> Tensor:
    """A weight for each class: float32 (classes,).

    ``balanced`` is images / (classes x images of the class), among the classes that have some: all classes count alike,
    and the mean over the images is 1. A mapping leaves the classes that it does not name at 1.

    Raises:
        UserError: a name is no class, or there are more or fewer numbers than classes.
    """
    weights = np.ones(len(classes))
    if given == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        there = counts > 0
        weights[there] = len(labels) / (there.sum() * counts[there])
    elif isinstance(given, Mapping):
        for name, value in given.items():
            if name not in classes:
                raise UserError(f"train.class_weights: {name!r} is no class of the data; {hint(name, classes)}")
            weights[list(classes).index(name)] = value
    elif given is not None:
        if len(given) != len(classes):
            raise UserError(f"train.class_weights: {len(given)} numbers for {len(classes)} classes")
        weights[:] = given
    return torch.tensor(weights, dtype=torch.float32)
