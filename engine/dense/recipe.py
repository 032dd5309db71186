"""What a dense run learns from and how, and how it is measured, without the places of files: kept as ``config.yaml``
in the run folder.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from engine.dense.arguments import processes
from engine.files import write_atomic
from engine.runfolder import ROOT, departures
from models.mm import start_file

LEARNING = ("model", "train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "custom_hooks")
MEASURING = ("val_dataloader", "val_evaluator")
# Where things lie and how fast they are read; and what stands in a key of its own.
LEFT_OUT = {
    *("data_root", "ann_file", "data_prefix", "backend_args", "num_workers", "persistent_workers", "pin_memory"),
    *("prefetch_factor", "init_cfg", "with_cp", "norm_from", "val_interval", "val_begin", "batch_size"),
    *("accumulative_counts", "loss_scale"),
}
PRECISION = {"Bfloat16OptimWrapper": "bf16", "AmpOptimWrapper": "fp16"}


def config_name(path: str | Path) -> str:
    """A config file as the tables name it: relative to the checkout where it lies inside."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def recipe(config: Config, task: str, pretrained: str | None = None) -> dict[str, Any]:
    """The recipe of a config before it is changed for the runner.

    Args:
        pretrained: the option of the command line: weights in place of the config's, or "none".
    """
    content = {name: _without_places(config.get(name)) for name in (*LEARNING, *MEASURING)}
    kind = content["optim_wrapper"].pop("type", None)
    backbone = config.model.get("backbone") or {}
    parts = config.optim_wrapper.get("accumulative_counts", 1)
    plain: dict[str, Any] = {
        "task": task,
        "config": config_name(config.filename),
        "images_per_step": config.train_dataloader.get("batch_size", 1) * processes(config) * parts,
        "pretrained": pretrained != "none" and bool(pretrained or start_file(backbone.get("init_cfg"))),
        "load_from": bool(config.get("load_from")),
        "precision": PRECISION.get(kind, "fp32"),
        **content,
    }
    return json.loads(json.dumps(plain, default=str))


def _without_places(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_places(value) for key, value in node.items() if key not in LEFT_OUT}
    return [_without_places(item) for item in node] if isinstance(node, list | tuple) else node


def row_recipe(config: Config, task: str) -> dict[str, Any]:
    """The recipe that a row of a table means by its config: with as many images in a step as its rate is for."""
    meant = (config.get("auto_scale_lr") or {}).get("base_batch_size")
    content = recipe(config, task)
    return content | ({"images_per_step": meant} if meant else {})


def keep_recipe(folder: Path, now: dict[str, Any], resumed: bool) -> None:
    """Write ``config.yaml``; a run that goes on by another recipe says for good which keys have changed."""
    path = folder / "config.yaml"
    if resumed and path.is_file():
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        differ = {key for key, _, _ in departures(before, now, now, {})}
        changed = sorted({*before.get("changed", []), *differ} - {"changed"})
        now = now | ({"changed": changed} if changed else {})
    write_atomic(path, yaml.safe_dump(now, sort_keys=False).encode())
