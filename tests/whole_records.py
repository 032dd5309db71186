"""Records with every key, for tests that care about a few."""

from typing import Any


def run_result(**values: Any) -> dict[str, Any]:
    """What result.json of a classifier holds."""
    return {
        **{"model": "dw_conv_tiny", "dataset": "D", "top1": 90.0, "top5": 99.0, "eval_images": 1000},
        **{"labels": "original", "best_top1": 90.0, "best_epoch": 1, "params": 1, "images_per_second": 100.0},
        **{"train_seconds": 1.0, "epochs": 1, "steps": 1, "skipped_steps": 0, "seed": 0, "ranks": 1, "commit": "c"},
        **{"device": "cpu", "checkpoint_sha256": "0" * 64, "best_sha256": None},
        **values,
    }


def eval_result(**values: Any) -> dict[str, Any]:
    """The JSON line of eval_cls.py."""
    return {
        **{"top1": 90.0, "top5": 99.0, "correct1": 900, "correct5": 990, "images": 1000, "labels": "original"},
        **{"model": "swin_tiny", "dataset": "D", "checkpoint": "w", "checkpoint_sha256": "0" * 64},
        **{"seconds": 1.0, "ranks": 1, "settings": {"model.name": values.get("model", "swin_tiny")}},
        **values,
    }


def sweep_row(**values: Any) -> dict[str, Any]:
    """A row of a sweep's results."""
    return {
        **{"name": "a", "label": "A", "task": "classification", "config": "a.yaml", "start_from": None, "params": 1},
        **{"macs": 1, "img_size": 28, "mean": 50.0, "std": None, "wanted": 1, "runs": []},
        **values,
    }


def sweep_result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of a sweep."""
    about = {"name": "t", "title": "t", "note": "n", "command": "c", "cpus": 2, "machine": "m", "torch": "2"}
    return {**about, "rows": rows, "groups": []}
