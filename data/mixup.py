"""Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) that do not depend on the number of ranks.

timm mixes sample i of a batch with sample n-1-i, so the partners change with the batch on a rank. Here
neighbours in the epoch's random order are partners (2k with 2k+1), and a draw (mixup or CutMix, ratio,
box) holds for `group` samples of that order. Both depend on the position in the epoch alone. The draws
and the mixing are timm's: on a batch reordered so that timm's partners are ours, the values are equal.
"""

import numpy as np
import torch
from torch import Tensor

from data.config import DataConfig, MixupConfig
from data.rng import hash64
from models.errors import UserError

_MIXUP = 0x6D69787570  # separates the hash of mixup from other hashes


class Mixup:
    """Callable on a batch; with mixing switched off it only smooths the labels."""

    def __init__(self, cfg: MixupConfig, num_classes: int) -> None:
        self.cfg = cfg
        self.num_classes = num_classes

    def __call__(self, images: Tensor, targets: Tensor, seed: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Mix images (n, C, H, W) with targets int64 (n,), n even; seed is (seed, epoch, batch.position).

        Returns new images and soft targets float32 (n, classes). Gives the same values for a batch as for
        the pieces of it that ranks or accumulation steps hold.
        """
        smoothed = self._smooth(targets)
        if not self.cfg.enabled:
            return images, smoothed
        base, epoch, position = seed
        if len(images) % 2 or position % 2:
            raise UserError(f"mixup needs an even batch at an even position, not {len(images)} at {position}")
        partners = _swap(images)
        mixed, lam = torch.empty_like(images), torch.ones(len(images), device=images.device)
        for first, last in self._pieces(len(images), position):
            group = (position + first) // self.cfg.group
            draw = np.random.RandomState(hash64(base, epoch, _MIXUP, group) & 0xFFFFFFFF)
            piece = slice(first, last)
            lam[piece] = self._mix(images[piece], partners[piece], mixed[piece], draw)
        lam = lam.unsqueeze(1)
        return mixed, smoothed * lam + _swap(smoothed) * (1 - lam)

    def _pieces(self, count: int, position: int) -> list[tuple[int, int]]:
        size = self.cfg.group
        starts = [0, *range(size - position % size, count, size)]
        return list(zip(starts, [*starts[1:], count], strict=True))

    def _mix(self, images: Tensor, partners: Tensor, out: Tensor, draw: np.random.RandomState) -> float:
        """Write the mixed images to `out` and return the share of each image in its own target."""
        lam, cut = self._draw_ratio(draw)
        if not cut:
            torch.add(images * lam, partners * (1 - lam), out=out)
            return lam
        height, width = images.shape[-2:]
        top, bottom, left, right = _draw_box(draw, lam, height, width)
        out.copy_(images)
        out[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
        return 1 - (bottom - top) * (right - left) / (height * width)

    def _draw_ratio(self, draw: np.random.RandomState) -> tuple[float, bool]:
        cfg = self.cfg
        if draw.rand() >= cfg.prob:
            return 1.0, False
        cut = cfg.cutmix > 0 and (cfg.mixup == 0 or draw.rand() < cfg.switch_prob)
        alpha = cfg.cutmix if cut else cfg.mixup
        return float(draw.beta(alpha, alpha)), cut

    def _smooth(self, targets: Tensor) -> Tensor:
        # On another device the look would wait for its work; a loader's labels are checked when it is built.
        if targets.device.type == "cpu" and len(targets) and int(targets.max()) >= self.num_classes:
            raise UserError(f"label {int(targets.max())} is outside model.num_classes={self.num_classes}")
        off = self.cfg.label_smoothing / self.num_classes
        smoothed = torch.full((len(targets), self.num_classes), off, device=targets.device)
        return smoothed.scatter_(1, targets.view(-1, 1), 1 - self.cfg.label_smoothing + off)


def _swap(values: Tensor) -> Tensor:
    return values.view(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)


def _draw_box(draw: np.random.RandomState, lam: float, height: int, width: int) -> tuple[int, int, int, int]:
    ratio = np.sqrt(1 - lam)
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    y, x = int(draw.randint(0, height)), int(draw.randint(0, width))
    top, bottom = max(y - cut_height // 2, 0), min(y + (cut_height + 1) // 2, height)
    left, right = max(x - cut_width // 2, 0), min(x + (cut_width + 1) // 2, width)
    return top, bottom, left, right


def build_mixup(cfg: DataConfig, num_classes: int) -> Mixup:
    """Build the callable `(images, targets, (seed, epoch, batch.position)) -> (images, soft targets)`."""
    return Mixup(cfg.mixup, num_classes)
