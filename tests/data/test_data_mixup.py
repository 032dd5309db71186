"""Mixup: timm's values, and independence of ranks and accumulation."""

import numpy as np
import pytest
import timm.data
import torch

from data import DataConfig, build_mixup
from data.mixup import _MIXUP
from data.rng import hash64
from models.errors import UserError


def images_and_targets(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 12, generator=generator), torch.randint(0, 7, (count,), generator=generator)


@pytest.mark.parametrize("mixup", [{}, {"cutmix": 0.0}, {"mixup": 0.0}, {"prob": 0.4}])
def test_values_are_those_of_timm(mixup: dict):
    """On a batch reordered so that timm's partners (i, n-1-i) are neighbours, both give the same."""
    images, targets = images_and_targets(12)
    ours = build_mixup(DataConfig(mixup=mixup), 7)
    # Swin's recipe in numbers: values read from our own config would agree with any default.
    recipe = {"mixup": 0.8, "cutmix": 1.0, "prob": 1.0} | mixup
    theirs = timm.data.Mixup(recipe["mixup"], recipe["cutmix"], prob=recipe["prob"], label_smoothing=0.1, num_classes=7)
    order = torch.tensor([*range(0, 12, 2), *range(11, 0, -2)])
    kinds = set()
    for epoch in range(20):
        mixed, soft = ours(images, targets, (3, epoch, 0))
        np.random.seed(hash64(3, epoch, _MIXUP, 0) & 0xFFFFFFFF)
        expected, expected_soft = theirs(images[order].clone(), targets[order])
        torch.testing.assert_close(mixed[order], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(soft[order], expected_soft, rtol=0, atol=1e-6)
        changed = mixed != images
        kinds.add("none" if not changed.any() else "mixup" if changed.all() else "cutmix")
    wanted = {"mixup", "cutmix"} if not mixup else {"mixup"} if "cutmix" in mixup else {"cutmix"}
    assert kinds == ({"mixup", "cutmix", "none"} if "prob" in mixup else wanted)


@pytest.mark.parametrize("piece", [2, 4, 10])
def test_pieces_of_a_batch_are_mixed_as_the_whole(piece: int):
    images, targets = images_and_targets(40)
    mixup = build_mixup(DataConfig(mixup={"group": 6}), 7)
    whole, soft = mixup(images, targets, (1, 2, 200))
    parts = [mixup(images[at : at + piece], targets[at : at + piece], (1, 2, 200 + at)) for at in range(0, 40, piece)]
    assert torch.cat([part[0] for part in parts]).equal(whole)
    assert torch.cat([part[1] for part in parts]).equal(soft)


def test_without_mixing_the_labels_are_smoothed():
    images, targets = images_and_targets(5)
    mixup = build_mixup(DataConfig(mixup={"prob": 0, "label_smoothing": 0.1}), 7)
    same, soft = mixup(images, targets, (0, 0, 0))
    assert same is images
    logits = torch.randn(5, 7)
    loss = -(soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1))


def test_a_label_outside_the_classes_is_named():
    images, _ = images_and_targets(2)
    with pytest.raises(UserError, match=r"label 9 is outside model.num_classes=7"):
        build_mixup(DataConfig(), 7)(images, torch.tensor([1, 9]), (0, 0, 0))
