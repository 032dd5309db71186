"""Parameters and multiply-adds of models: ``python tools/model_cost.py NAME_OR_CONFIG ... [--counter paper] [--json]``.

A name is a model of the zoo or ``timm:NAME``; a config is a YAML file with a ``model`` section, or a ``.py`` config of
detection/ or segmentation/ (Tables 3 and 11; needs ``make setup-dense``). Nothing is computed on
numbers: the model is built and run without memory for its values, so the largest takes seconds.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="NAME_OR_CONFIG")
    parser.add_argument("--img-size", type=int, help="input size in pixels (default: the model's own)")
    parser.add_argument("--counter", choices=["torch", "paper"], default="torch")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--write-dense", action="store_true", help="count Tables 3 and 11 into benchmarks/dense_costs.json"
    )
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import torch
from torch import nn

from engine.config import load_config
from engine.files import write_atomic
from models import create_model
from models.cost import Cost, config_cost, model_cost
from models.errors import UserError
from models.zoo import takes
from tools.tables.costs import DENSE_COSTS
from tools.tables.loading import ROOT, load_tables, shown
from tools.text import aligned


def build(target: str, img_size: int | None) -> tuple[nn.Module, tuple[int, int]]:
    """The model that a name stands for, on the meta device, and its input size (height, width)."""
    with torch.device("meta"):
        if target.startswith("timm:"):
            model: Any = create_model(target)
            size = img_size or model.default_cfg["input_size"][-1]
            if img_size and hasattr(model, "set_input_size"):
                model.set_input_size(img_size=img_size)
            return model, (size, size)
        size = img_size or 224
        sized: dict[str, Any] = {"img_size": size} if takes(target, "img_size") else {}
        return create_model(target, **sized), (size, size)


def measure(target: str, img_size: int | None, counter: str) -> dict[str, Any]:
    """One row of the JSON output; ``aggregation_macs`` is I-Dynamic's window sum, which ``macs`` leaves out."""
    if target.endswith(".py"):
        cost = measure_dense(target, counter, img_size)
    elif target.endswith((".yaml", ".yml")):
        config = load_config(target, [] if img_size is None else [f"model.img_size={img_size}"])
        cost = config_cost(config.model, counter=counter)
    else:
        model, size = build(target, img_size)
        cost = model_cost(model, size, counter=counter)
    row = {"name": target, "params": cost.params, "macs": cost.macs, "counter": counter}
    return row | ({"aggregation_macs": cost.aggregation} if cost.aggregation else {})


def measure_dense(target: str, counter: str, img_size: int | None = None) -> Cost:
    """Cost of a detector or segmentor, by default at the paper's image sizes; its libraries are imported only here."""
    try:
        from engine.dense.arguments import load_mm_config
        from engine.dense.cost import dense_cost
    except ModuleNotFoundError as error:
        raise UserError(f"{target}: needs {error.name}, which `make setup-dense` installs") from error
    size = None if img_size is None else (img_size, img_size)
    return dense_cost(load_mm_config(target, {}), counter=counter, size=size)


def print_table(rows: list[dict[str, Any]], counter: str) -> None:
    """One line a model; MACs in units of 10^9."""
    lines = [["model", "parameters", f"MACs ({counter})", ""]]
    for row in rows:
        apart = f"+ {row['aggregation_macs'] / 1e9:.4f} G aggregation" if "aggregation_macs" in row else ""
        lines.append([row["name"], f"{row['params']:,}", f"{row['macs'] / 1e9:.4f} G", apart])
    print(aligned(lines, right=True))


def dense_configs() -> list[str]:
    """The detection and segmentation configs of all rows."""
    rows = ((table, row) for table in load_tables() for row in table.rows)
    found = (row.config_of(task) for table, row in rows for task in table.tasks() if task != "classification")
    return list(dict.fromkeys(config for config in found if config))


def write_dense() -> None:
    """Count what needs mmdet and mmsegmentation once, so that the tables are printed without them, too."""
    costs = {}
    for config in dense_configs():
        cost = measure_dense(str(ROOT / config), "paper")
        costs[config] = {"params": cost.params, "macs": cost.macs}
        print(f"{config}: {cost.params:,} parameters, {cost.macs / 1e9:.3f} G", flush=True)
    write_atomic(DENSE_COSTS, (json.dumps({"counter": "paper", "costs": costs}, indent=1) + "\n").encode())
    print(f"wrote {shown(DENSE_COSTS)}")


@cli.command("model_cost")
def main() -> None:
    args = parser().parse_args()
    if bool(args.targets) == args.write_dense:
        raise UserError("give NAME_OR_CONFIG ..., or --write-dense")
    if args.write_dense:
        write_dense()
    elif args.json:
        print(json.dumps([measure(target, args.img_size, args.counter) for target in args.targets], indent=1))
    else:
        print_table([measure(target, args.img_size, args.counter) for target in args.targets], args.counter)


if __name__ == "__main__":
    sys.exit(main())
