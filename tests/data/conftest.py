"""Small image folders made on the spot."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_images(root: Path, classes: int, per_class: int, size: tuple[int, int] = (72, 60)) -> None:
    """Write JPEGs `root/class_<c>/<i>.jpg` of smooth random colour; size is (width, height)."""
    random = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class_{label}"
        folder.mkdir(parents=True)
        for number in range(per_class):
            coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            image.save(folder / f"{number}.jpg", quality=92)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train (3 classes of 14) and val (3 classes of 7). Tests must not change it."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", 3, 14)
    write_images(root / "val", 3, 7)
    return root
