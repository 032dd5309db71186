"""The command lines of training and testing, and what they change in a config."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction

from models.errors import UserError, hint


def common_parser(description: str) -> argparse.ArgumentParser:
    """The options that training and testing share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file of this project or of the library")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: runs/dense/CONFIG)")
    parser.add_argument("--data-root", help="folder of the data set, in place of the config's")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], help="default: pytorch under torchrun")
    parser.add_argument("--skip-data-check", action="store_true", help="do not look through annotations first")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="change keys of the config; +KEY adds one",
    )
    return parser


def similar(path: Path, pattern: str = "*") -> str:
    """The end of a message on a missing file or folder: what its folder holds in its place."""
    there = [other.name for other in path.parent.glob(pattern)] if path.parent.is_dir() else []
    return f"; {hint(path.name, there)}" if there else ""


def load_mm_config(path: str, options: dict[str, Any]) -> Config:
    """Read a config and apply ``key=value`` options; a key that the config lacks is refused, but ``+key`` adds it."""
    if not Path(path).is_file():
        raise UserError(f"config {path}: no such file{similar(Path(path), '*.py')}")
    try:
        config = Config.fromfile(path)
    except (SyntaxError, KeyError, TypeError, NameError, FileNotFoundError, ImportError) as error:
        raise UserError(f"config {path}: {type(error).__name__}: {error}") from error
    for key in options:
        if not key.startswith("+"):
            _require_key(config, key)
    config.merge_from_dict({key.removeprefix("+"): value for key, value in options.items()})
    return config


def _require_key(config: Config, key: str) -> None:
    node: Any = config
    for part in key.split("."):
        known = range(len(node)) if isinstance(node, list) else node.keys() if hasattr(node, "keys") else []
        if part not in [str(name) for name in known]:
            raise UserError(f"--cfg-options {key}: the config has no {part!r} there; {hint(part, map(str, known))}")
        node = node[int(part)] if isinstance(node, list) else node[part]


def datasets(config: Config, split: str) -> Iterator[ConfigDict]:
    """The data sets of the ``train``, ``val`` or ``test`` loader that read files, also inside wrappers."""

    def walk(node: Any) -> Iterator[ConfigDict]:
        if isinstance(node, list):
            for item in node:
                yield from walk(item)
        elif isinstance(node, dict):
            if "data_prefix" in node or "ann_file" in node:
                yield node
            else:
                for key in ("dataset", "datasets"):
                    yield from walk(node.get(key))

    loader = config.get(f"{split}_dataloader") or {}
    yield from walk(loader.get("dataset"))


def set_data_root(config: Config, root: str) -> None:
    """Point every data set at ``root``, and the evaluators at the annotation files of their data sets."""
    for split in ("train", "val", "test"):
        for dataset in datasets(config, split):
            dataset.data_root = root
    set_annotation_files(config)


def set_annotation_files(config: Config) -> None:
    """Let COCO evaluators read the annotation file of the data set that they evaluate."""
    for split in ("val", "test"):
        evaluator = config.get(f"{split}_evaluator")
        for dataset in datasets(config, split):
            for item in evaluator if isinstance(evaluator, list) else [evaluator]:
                if isinstance(item, dict) and "ann_file" in item and dataset.get("ann_file"):
                    item["ann_file"] = str(Path(dataset.get("data_root") or "") / dataset.ann_file)


def set_device(config: Config, launcher: str | None) -> None:
    """Choose the launcher; on a machine without GPU, processes talk through gloo and BN is not synchronised there."""
    config.launcher = launcher or ("pytorch" if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ else "none")
    if torch.cuda.is_available():
        return
    config.setdefault("env_cfg", {}).setdefault("dist_cfg", {})["backend"] = "gloo"
    if config.launcher != "none":
        # torch's SyncBatchNorm has no CPU version, and a CPU model has no device number.
        config.sync_bn = None
        config.model_wrapper_cfg = {
            "type": "MMDistributedDataParallel",
            "device_ids": None,
            "broadcast_buffers": False,
        }
        _replace_sync_bn(config.model)


def _replace_sync_bn(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        for value in node.values():
            _replace_sync_bn(value)
    elif isinstance(node, list | tuple):
        for value in node:
            _replace_sync_bn(value)


def set_work_dir(config: Config, path: str, work_dir: str | None) -> None:
    """The run folder: the option, else the config's own, else runs/dense/NAME_OF_CONFIG. It can be written to."""
    config.work_dir = work_dir or config.get("work_dir") or str(Path("runs", "dense", Path(path).stem))
    try:
        Path(config.work_dir).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=config.work_dir):
            pass
    except OSError as error:
        raise UserError(f"--work-dir {config.work_dir}: cannot be written to ({error.strerror})") from error


def set_batch(config: Config, scale: bool) -> None:
    """The images of a step are those that the rate is for (``auto_scale_lr.base_batch_size``), or the rate is scaled.

    Raises:
        UserError: they are others and ``scale`` is off; says how many processes would be right.
    """
    rule = config.get("auto_scale_lr") or {}
    meant, each = rule.get("base_batch_size"), config.train_dataloader.get("batch_size", 1)
    if not meant:
        if scale:
            raise UserError(f"--scale-lr: config {config.filename} has no auto_scale_lr.base_batch_size")
        return
    scale = scale or bool(rule.get("enable"))
    parts = config.optim_wrapper.get("accumulative_counts", 1)
    total = each * processes(config) * parts
    if scale or total == meant:
        # The library's rule knows nothing of accumulated parts.
        config.auto_scale_lr = {"enable": scale, "base_batch_size": meant / parts}
    else:
        right = f"start {meant // (each * parts)} processes" if meant % (each * parts) == 0 else "change batch_size"
        raise UserError(
            f"train_dataloader.batch_size: {each} images x {processes(config)} processes"
            + (f" x {parts} accumulated parts" if parts > 1 else "")
            + f" make steps of {total}, but the learning rate is for {meant}; {right} (torchrun --nproc-per-node N), "
            f"or scale the rate with --scale-lr"
        )


def processes(config: Config) -> int:
    """Processes of the run, before they have met."""
    if config.get("launcher", "none") == "none":
        return 1
    return int(os.environ.get("SLURM_NTASKS" if config.launcher == "slurm" else "WORLD_SIZE", 1))


def set_neck_levels(config: Config) -> None:
    """A neck that begins at a later stage leaves the norms before it without gradient, which ends a DDP training."""
    neck, backbone = config.model.get("neck"), config.model.get("backbone")
    if isinstance(neck, ConfigDict) and neck.get("start_level") and (backbone or {}).get("type") == "ZooBackbone":
        config.model.backbone.norm_from = config.model.backbone.get("out_indices", range(4))[neck["start_level"]]


def set_amp(config: Config, kind: str | None) -> None:
    """Automatic mixed precision: "bf16" for segmentation; "fp16" with loss scaling on a GPU."""
    if kind == "bf16":
        if config.default_scope == "mmdet":
            raise UserError(
                "--amp bf16: mmcv's RoIAlign and box suppression know no bfloat16; --amp fp16 on a GPU, or leave it out"
            )
        config.optim_wrapper.type = "Bfloat16OptimWrapper"
    elif kind == "fp16":
        if not torch.cuda.is_available():
            raise UserError("--amp fp16: needs a GPU; --amp bf16 works on the CPU for segmentation")
        config.optim_wrapper.type = "AmpOptimWrapper"
        config.optim_wrapper.loss_scale = "dynamic"


def set_show_dir(config: Config, folder: str) -> None:
    """Draw predictions into ``folder``; the libraries keep that in different places."""
    if config.default_scope == "mmdet":
        config.default_hooks.visualization.update(draw=True, test_out_dir=folder)
    else:
        config.default_hooks.visualization.update(draw=True, interval=1)
        config.visualizer.update(name="show", save_dir=folder)


def set_multi_scale(config: Config) -> None:
    """Test with the scales and flips of the config, averaged. Raises UserError where it has none."""
    for key in ("tta_model", "tta_pipeline"):
        if key not in config:
            raise UserError(f"--multi-scale: the config has no {key}")
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    config.tta_model.module = config.model
    config.model = config.tta_model
