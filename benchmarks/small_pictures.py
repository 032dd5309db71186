"""Processor time of loading small pictures: from their files, from memory (data.cache=memory), and by timm's loader.

    python benchmarks/small_pictures.py [--images 2000] [--rounds 7]

All make batches of 100 crops of 32x32 in the main process from the same PNGs, and take turns. Prints a Markdown table.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli

BATCH, SIZE = 100, 32


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="images of one turn")
    parser.add_argument("--rounds", type=int, default=7)
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import numpy as np
import timm.data
import torch
from PIL import Image
from torchvision import transforms

from data import DataConfig, build_train_loader
from data.config import AugmentConfig
from engine.runfolder import processor_name
from models.errors import UserError

Epoch = Callable[[], Iterable]
# What a recipe changes, in our words; the paper's is the default.
RECIPES: dict[str, dict[str, Any]] = {
    "crop and flip": {"auto_augment": None, "color_jitter": 0.0, "erase_prob": 0.0},
    "the paper's (RandAugment, random erasing)": {},
}


def write_pictures(root: Path, count: int) -> None:
    """PNGs of noise in 4 classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = root / "train" / f"class_{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)


def ours(root: Path, recipe: dict[str, Any], cache: Literal["none", "memory"]) -> Epoch:
    """Our loader; up to 32 pixels its crop is padded, as Swin's."""
    cfg = DataConfig(root=root, workers=0, cache=cache, augment=AugmentConfig(**recipe))
    loader = build_train_loader(cfg, img_size=SIZE, batch_size=BATCH)
    return lambda: loader.epoch(0)


def timms(root: Path, recipe: dict[str, Any]) -> Epoch:
    """timm's loader, with Swin's padded crop in place of its own at this size."""
    dataset = timm.data.ImageDataset(str(root / "train"))
    loader = timm.data.create_loader(
        dataset,
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        re_prob=recipe.get("erase_prob", 0.25),
        re_mode="pixel",
        re_count=1,
        color_jitter=recipe.get("color_jitter", 0.4),
        auto_augment=recipe.get("auto_augment", "rand-m9-mstd0.5-inc1"),
        interpolation="bicubic",
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    dataset.transform.transforms[0] = transforms.RandomCrop(SIZE, padding=4)
    return lambda: loader


def turn(epoch: Epoch) -> float:
    """Processor milliseconds an image of one epoch."""
    began, count = time.process_time(), 0
    for batch in epoch():
        count += len(batch.targets) if hasattr(batch, "targets") else len(batch[1])
    return 1e3 * (time.process_time() - began) / count


def compare(root: Path, recipe: dict[str, Any], rounds: int) -> list[float]:
    """Medians of our loader from files and from memory, and of timm's; a first turn of each does not count."""
    loaders = [ours(root, recipe, "none"), ours(root, recipe, "memory"), timms(root, recipe)]
    times = [[turn(epoch) for epoch in loaders] for _ in range(rounds + 1)][1:]
    return [statistics.median(each) for each in zip(*times, strict=True)]


@cli.command("small_pictures")
def main() -> None:
    """Run the comparison."""
    options = parser().parse_args()
    if options.images < BATCH or options.rounds < 1:
        raise UserError(f"--images must be {BATCH} or more, --rounds 1 or more")
    torch.set_num_threads(1)
    print(f"{options.images} pictures of {SIZE}x{SIZE}, {options.rounds} rounds, {processor_name()}")
    print("\n| recipe | files | `cache=memory` | timm's loader |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), options.images)
        for name, recipe in RECIPES.items():
            print(f"| {name} | {' | '.join(f'{each:.3f}' for each in compare(Path(folder), recipe, options.rounds))} |")


if __name__ == "__main__":
    sys.exit(main())
