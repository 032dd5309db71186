"""What is wrong with a config or data set is said before anything starts, by name."""

import math
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from engine.dense.arguments import datasets, similar
from models.errors import UserError

SCOPES = {"detection": "mmdet", "segmentation": "mmseg"}


def check_config(config: Config, task: str) -> None:
    """The config is one for ``task``, "detection" or "segmentation"."""
    for key in ("model", "default_scope"):
        if key not in config:
            raise UserError(f"config {config.filename}: has no {key!r}")
    if config.default_scope != SCOPES[task]:
        other = next((name for name, scope in SCOPES.items() if scope == config.default_scope), config.default_scope)
        raise UserError(f"config {config.filename}: is for {other}, this command is for {task}")


def check_checkpoint(path: str) -> None:
    """The checkpoint is a file."""
    if "://" in path:
        raise UserError(f"checkpoint {path}: an address; download the file and give its path")
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path}: no such file{similar(Path(path), '*.pth')}")


def check_datasets(config: Config, splits: Sequence[str]) -> None:
    """Look through the annotations of the data sets of ``splits``: files, pictures, classes, boxes, label values.

    Raises:
        UserError: the first thing that is wrong, with the file and the entry.
    """
    from engine.dense.coco import check_coco
    from engine.dense.labels import check_labels

    check = check_coco if config.default_scope == "mmdet" else check_labels
    for split in splits:
        for dataset in datasets(config, split):
            check_heads(config, class_names(dataset, config.default_scope))
            check(dataset, f"{split}_dataloader", config)


def check_heads(config: Config, classes: Sequence[str]) -> None:
    """Every head that names classes has one output for each class of the data set."""
    for path, head in _heads(config.model, "model"):
        if classes and head.num_classes != len(classes):
            raise UserError(
                f"config {config.filename}: {path}.num_classes is {head.num_classes}, but the data set has "
                f"{len(classes)} classes ({', '.join(map(str, classes[:3]))}, ...)"
            )


def _heads(node: Any, path: str) -> Iterator[tuple[str, ConfigDict]]:
    for key, value in node.items():
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, dict):
                where = f"{path}.{key}" + (f".{number}" if isinstance(value, list) else "")
                if key in ("bbox_head", "mask_head", "decode_head", "auxiliary_head") and "num_classes" in item:
                    yield where, item
                yield from _heads(item, where)


def class_names(dataset: ConfigDict, scope: str) -> list[str]:
    """The classes of a data set in the order of its labels: its own, else those that its type declares."""
    own = (dataset.get("metainfo") or {}).get("classes")
    if own:
        return [own] if isinstance(own, str) else list(own)
    import_module(f"{scope}.datasets")
    registry = import_module(f"{scope}.registry").DATASETS
    with DefaultScope.overwrite_default_scope(scope):
        kind = registry.get(dataset.type)
    return list((getattr(kind, "METAINFO", None) or {}).get("classes") or ())


def check_class_names(meta: dict[str, Any], dataset: ConfigDict, scope: str, source: str) -> None:
    """The names that weights were trained with are those of the data set, in the same order.

    Raises:
        UserError: they differ; names both sides. Weights that keep no names are taken as they are.
    """
    trained, given = trained_classes(meta), class_names(dataset, scope)
    if not trained or not given or trained == given:
        return
    if len(trained) != len(given):
        raise UserError(f"{source}: was trained with {len(trained)} classes, the data set has {len(given)}")
    at = next(index for index, names in enumerate(zip(trained, given, strict=True)) if names[0] != names[1])
    raise UserError(f"{source}: class {at} was trained as {trained[at]!r}, the data set calls it {given[at]!r}")


def trained_classes(meta: dict[str, Any]) -> list[str]:
    """The class names in the meta data of a checkpoint, of this generation of the libraries or the one before."""
    kept = {str(key).lower(): value for key, value in {**meta, **(meta.get("dataset_meta") or {})}.items()}
    return [str(name) for name in kept.get("classes") or ()]


def existing(dataset: ConfigDict, name: str, where: str, *, folder: bool) -> Path:
    """A file or folder of a data set."""
    path = Path(dataset.get("data_root") or "", name)
    if not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        raise UserError(f"{where}: no {kind} {path}{similar(path)}")
    return path


def turns(dataset: ConfigDict) -> bool:
    """Whether the data set's pipeline turns pictures as their EXIF says, which the library does unless told not to."""
    steps = dataset.get("pipeline") or []
    load: dict[str, Any] = next((step for step in steps if str(step.get("type", "")).endswith("LoadImageFromFile")), {})
    return "ignore_orientation" not in load.get("color_type", "color")


def finite(values: Any, count: int) -> bool:
    """Whether ``values`` are ``count`` finite numbers."""
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )
