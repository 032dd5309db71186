"""Compare the speed of loading ImageNet-like JPEGs: ours, timm's loader and torchvision, in one run on the same cores.

    python benchmarks/data_loading.py [--workers 2] [--size 500x375] [--crop 224] [--rounds 7] [--out benchmarks]

All get the same files, the same recipe (random crop to 224 with bicubic, flip, RandAugment 2 x 9, random erasing)
and the same workers, and take turns, so a busy machine slows them alike. Prints a table, writes JSON and a page.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--size", action="append", help="WIDTHxHEIGHT of the JPEGs; may be repeated")
    parser.add_argument("--images", type=int, default=512, help="images of one turn")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--crop", type=int, default=224, help="side of the training crops")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for the JSON file and the page")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import numpy as np
import sklearn
import timm.data
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import datasets, transforms

from data import DataConfig, build_train_loader
from data.config import IMAGENET_MEAN, IMAGENET_STD
from data.crop import dct_scale, exact_crop, fast_crop
from data.decode import open_image
from engine.runfolder import processor_name
from models.errors import UserError

Epoch = Callable[[], Iterable]
_TICKS = os.sysconf("SC_CLK_TCK")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    options = parser().parse_args(arguments)
    options.size = options.size or ["500x375"]
    for size in options.size:
        if not re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", size):
            raise UserError(f"--size {size}: must be WIDTHxHEIGHT, e.g. 500x375")
    if options.images < options.batch_size or min(options.workers, options.rounds, options.batch_size) < 1:
        raise UserError("--images must fill a batch, --workers, --rounds and --batch-size must be 1 or more")
    return options


def write_photos(root: Path, count: int, size: tuple[int, int], quality: int) -> None:
    """Write JPEGs of 4 classes: random parts of scikit-learn's two photographs, at the wanted size."""
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    photos = [Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % 2]
        width = int(photo.width * rng.uniform(0.6, 0.95))
        height = min(photo.height, width * size[1] // size[0])
        left, top = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
        part = photo.crop((int(left), int(top), int(left) + width, int(top) + height))
        path = root / "train" / f"class_{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.resize(size, Image.Resampling.BICUBIC).save(path, quality=quality)


def ours(root: Path, options: argparse.Namespace, fast: bool) -> Epoch:
    """Our loader with the default config."""
    cfg = DataConfig(root=root, workers=options.workers, fast_decode=fast)
    loader = build_train_loader(cfg, img_size=options.crop, batch_size=options.batch_size)
    return lambda: loader.epoch(0)


def timms(root: Path, options: argparse.Namespace) -> Epoch:
    """timm's loader as its and Swin's training scripts build it."""
    loader = timm.data.create_loader(
        timm.data.ImageDataset(str(root / "train")),
        (3, options.crop, options.crop),
        options.batch_size,
        is_training=True,
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        num_workers=options.workers,
        device=torch.device("cpu"),
    )
    return lambda: loader


def torchvisions(root: Path, options: argparse.Namespace) -> Epoch:
    """torchvision's own transforms of the same recipe, as in its reference scripts."""
    steps = [
        transforms.RandomResizedCrop(options.crop, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.RandAugment(2, 9, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        transforms.RandomErasing(0.25, value="random"),
    ]
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(str(root / "train"), transforms.Compose(steps)),
        options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=True,
    )
    return lambda: loader


def cpu_seconds() -> float:
    """Processor time of this process and its living workers."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def turn(epoch: Epoch, images: int) -> tuple[float, float]:
    """Load one epoch; returns images a second and processor milliseconds an image."""
    started, used, count = time.perf_counter(), cpu_seconds(), 0
    for batch in epoch():
        count += len(batch.targets) if hasattr(batch, "targets") else len(batch[1])
    assert 0 < count <= images
    return count / (time.perf_counter() - started), 1e3 * (cpu_seconds() - used) / count


def compare(root: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Let the loaders take turns; the first turn of each starts its workers and does not count."""
    loaders = {
        "ours": ours(root, options, True),
        "ours, exact decoding": ours(root, options, False),
        "timm": timms(root, options),
        "torchvision": torchvisions(root, options),
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for number in range(options.rounds + 1):
        for name, epoch in loaders.items():
            result = turn(epoch, options.images)
            if number:
                turns[name].append(result)
    table = {}
    for name, results in turns.items():
        ratios = [mine[0] / theirs[0] for mine, theirs in zip(results, turns["timm"], strict=True)]
        cpu_ratios = [theirs[1] / mine[1] for mine, theirs in zip(results, turns["timm"], strict=True)]
        table[name] = {
            "images_per_second": round(statistics.median(rate for rate, _ in results), 1),
            "cpu_ms_per_image": round(statistics.median(cpu for _, cpu in results), 2),
            "speed_over_timm": round(statistics.median(ratios), 3),
            "speed_over_timm_by_cpu_time": round(statistics.median(cpu_ratios), 3),
            "ours_over_it": round(
                statistics.median(mine[0] / its[0] for mine, its in zip(turns["ours"], results, strict=True)), 3
            ),
        }
    return table


def pixel_differences(root: Path, crops: int = 400) -> dict[str, dict[str, float]]:
    """Compare fast with exact decoding over random crops, in levels of 255, by the scale used in the DCT."""
    files = sorted((root / "train").rglob("*.jpg"))
    found: dict[str, list[tuple[float, int]]] = {}
    for number in range(crops):
        data, size = files[number % len(files)].read_bytes(), (224, 224)
        image = open_image(data, "photo", 10**9)
        box = RandomResizedCropAndInterpolation.get_params(image.open(), (0.08, 1.0), (3 / 4, 4 / 3))
        scale = dct_scale(box, size)
        fast = np.asarray(fast_crop(image, box, size, "bicubic", 3)).astype(int)
        exact = exact_crop(image, box, size, "bicubic", 3)
        difference = np.abs(fast - np.asarray(exact).astype(int))
        found.setdefault(f"1/{scale}", []).append((float(difference.mean()), int(difference.max())))
    return {
        scale: {
            "share_of_crops": round(len(rows) / crops, 3),
            "mean": round(statistics.mean(mean for mean, _ in rows), 4),
            "max": max(most for _, most in rows),
        }
        for scale, rows in sorted(found.items())
    }


def machine() -> dict[str, object]:
    """Describe where this runs."""
    versions = {package: version(package) for package in ("torch", "torchvision", "timm", "pillow", "numpy")}
    return {"cpu": processor_name(), "cores": os.cpu_count(), "load_before": os.getloadavg()[0], "versions": versions}


def page(report: dict) -> str:
    """Write the report as Markdown."""
    where = report["machine"]
    lines = [
        "# Speed of loading and augmenting JPEGs",
        "",
        f"Command: `{report['command']}`",
        f"Machine: {where['cpu']}, {where['cores']} cores, load {where['load_before']:.1f} before the run.",
    ]
    for size, result in report["sizes"].items():
        lines += ["", f"## {size}, {result['bytes_per_image']:,} bytes an image", ""]
        lines += [
            "| loader | images/s | CPU ms/image | speed over timm | by CPU time | ours over it |",
            "|---|---|---|---|---|---|",
        ]
        lines += [f"| {name} | {' | '.join(map(str, row.values()))} |" for name, row in result["loaders"].items()]
        lines += ["", "Fast against exact decoding, levels of 255:", ""]
        lines += ["| DCT scale | share of crops | mean difference | largest |", "|---|---|---|---|"]
        lines += [f"| {scale} | {' | '.join(map(str, row.values()))} |" for scale, row in result["pixels"].items()]
    return "\n".join(lines) + "\n"


@cli.command("data_loading")
def main(arguments: list[str] | None = None) -> None:
    """Run the comparison."""
    options = parse(arguments)
    torch.set_num_threads(1)
    command = "python benchmarks/data_loading.py " + " ".join(sys.argv[1:] if arguments is None else arguments)
    report: dict = {"command": command.strip(), "machine": machine(), "sizes": {}}
    for size in options.size:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_photos(root, options.images, (width, height), options.quality)
            total = sum(path.stat().st_size for path in root.rglob("*.jpg"))
            report["sizes"][size] = {
                "bytes_per_image": total // options.images,
                "loaders": compare(root, options),
                "pixels": pixel_differences(root),
            }
    print(page(report))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "data_loading.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "data_loading.md").write_text(page(report))


if __name__ == "__main__":
    sys.exit(main())
