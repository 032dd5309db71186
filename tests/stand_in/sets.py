"""A few made-up pictures in the layouts of ImageNet's, COCO's and ADE20K's validation sets, and tables for them."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from timm.data import create_transform

from data.classes import imagenet_classes
from engine.labels import real_labels
from models import create_model
from models.checkpoint import State, convert_state, load_pretrained
from tools.tables.loading import TABLES

IMAGENET_SIZE = (260, 240)
FILLED = ("2", "3", "4", "8", "11")  # the tables that released weights fill


def picture(number: int, width: int, height: int) -> Image.Image:
    """Smooth random colours."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def imagenet_name(number: int) -> str:
    """The file name of a validation image, counted from 1."""
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def make_imagenet(root: Path, labels: dict[int, int]) -> None:
    """``root/val/<synset>/ILSVRC2012_val_*.JPEG`` for {number of the image: class}."""
    for number, label in labels.items():
        folder = root / "val" / imagenet_classes()[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, *IMAGENET_SIZE).save(folder / imagenet_name(number), quality=95)


def seen_labels(weights: State, name: str, numbers: Iterable[int]) -> dict[int, int]:
    """The class that a classifier sees in each of some pictures, but another one for the first of every four.

    Decoded and cut by timm, so that an evaluation of these weights must find 75%, and of other weights next to nothing.
    """
    model = create_model(name).eval()
    load_pretrained(model, convert_state(weights))
    transform = create_transform(224, interpolation="bicubic", crop_pct=0.875)
    labels = {}
    for place, number in enumerate(numbers):
        file = io.BytesIO()
        picture(number, *IMAGENET_SIZE).save(file, "JPEG", quality=95)
        with torch.no_grad(), Image.open(file) as image:
            labels[number] = (int(model(transform(image)[None]).argmax()) + (place % 4 == 0)) % 1000
    return labels


def likely_labels(images: int) -> dict[int, int]:
    """A class for each of the first validation images: the first that ReaL gives it, class 0 where it has none."""
    return {number: [*real_labels()[number - 1], 0][0] for number in range(1, images + 1)}


def make_coco(root: Path, images: int, classes: list[str], size: tuple[int, int] = (640, 480)) -> None:
    """``root/val2017/*.jpg`` and ``root/annotations/instances_val2017.json`` with two objects an image."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    width, height = size
    content: dict[str, list] = {
        "images": [], "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
    }  # fmt: skip
    for image in range(1, images + 1):
        name = f"{image:012d}.jpg"
        picture(image, width, height).save(root / "val2017" / name, quality=95)
        content["images"].append({"id": image, "file_name": name, "width": width, "height": height})
        for share in (0.25, 0.5):
            w, h = round(share * width), round(share * height)
            x, y = w // 3, h // 3
            entry = {"id": len(content["annotations"]) + 1, "image_id": image, "category_id": image % len(classes) + 1}
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            content["annotations"].append(
                {**entry, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": [corners]}
            )
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))


def make_ade20k(root: Path, images: int, size: tuple[int, int] = (683, 512)) -> None:
    """``root/images/validation/ADE_val_*.jpg`` and ``root/annotations/validation/*.png``: 0 is `ignore`, 1 to 150."""
    for kind in ("images", "annotations"):
        (root / kind / "validation").mkdir(parents=True)
    for image in range(1, images + 1):
        name = f"ADE_val_{image:08d}"
        picture(image, *size).save(root / "images" / "validation" / f"{name}.jpg", quality=95)
        blocks = np.random.default_rng(image).integers(0, 151, (4, 5), dtype=np.uint8)
        labels = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
        labels.save(root / "annotations" / "validation" / f"{name}.png")


def make_tables(folder: Path, images: dict[str, int], real_images: int) -> None:
    """Copies of the tables that released weights fill, for sets of so many images, without any record."""
    folder.mkdir(parents=True)
    for table in FILLED:
        content = yaml.safe_load((TABLES / f"table{table}.yaml").read_text(encoding="utf-8"))
        content |= {"images": images, "data": dict.fromkeys(images, "made-up pictures"), "real_images": real_images}
        (folder / f"table{table}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    (folder / "results.yaml").write_text("records: []\n", encoding="utf-8")
