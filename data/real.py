"""ReaL labels (Beyer et al., 2020): several right classes for each ImageNet validation image, some with none.

The labels are those that timm carries. They belong to file names, so any order or share of images works.
"""

import json
from functools import cache
from pathlib import Path, PurePosixPath

import timm.data

from data.errors import DataError

_FILE = Path(timm.data.__file__).parent / "_info" / "imagenet_real_labels.json"


@cache
def _labels() -> list[list[int]]:
    return json.loads(_FILE.read_text())


def real_labels(name: str) -> list[int]:
    """Return the classes that are right for `...ILSVRC2012_val_<number>.JPEG`; images with [] are not counted.

    Raises DataError for another name.
    """
    stem = PurePosixPath(name).stem
    number = stem.removeprefix("ILSVRC2012_val_")
    if number == stem or not number.isdigit() or not 1 <= int(number) <= len(_labels()):
        raise DataError(f"ReaL labels exist for ILSVRC2012_val_<number>.JPEG, not for {name!r}")
    return _labels()[int(number) - 1]
