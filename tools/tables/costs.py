"""What a row of the paper costs: its config is built without memory for values and counted."""

import json
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.config import load_config
from engine.schema import Config
from models.cost import Cost, config_cost
from models.errors import UserError
from tools.tables.loading import ROOT
from tools.tables.printed import COSTS
from tools.tables.schema import ExpectedCost, Row, Table, Task

DENSE_COSTS = ROOT / "benchmarks" / "dense_costs.json"


@dataclass(frozen=True)
class RowCost:
    """Parameters and MACs of one image, by which counter, and the costs that contradict the paper or the proof."""

    params: int
    macs: int
    counter: str
    checked: int
    wrong: tuple[str, ...]


def row_config(config: str) -> Config:
    """The resolved config behind a row's `config`: a path relative to the checkout and overrides.

    Raises:
        UserError: the path or an override is wrong.
    """
    path, *overrides = shlex.split(config)
    return load_config(ROOT / path, overrides, world_size=1)


@cache
def dense_costs() -> dict[str, dict[str, int]]:
    """Parameters and MACs of the dense configs as `model_cost.py --write-dense` left them; empty where it has not run.

    Raises:
        UserError: the file is no such record.
    """
    if not DENSE_COSTS.is_file():
        return {}
    try:
        return {
            key: {"params": c["params"], "macs": c["macs"]}
            for key, c in json.loads(DENSE_COSTS.read_text())["costs"].items()
        }
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{DENSE_COSTS}: no record of `model_cost.py --write-dense`: {error}") from None


@cache
def count(config: str, counter: str) -> Cost:
    """The cost of one image of a classification config.

    Raises:
        UserError: the config cannot be read or its model cannot be built.
    """
    try:
        return config_cost(row_config(config).model, counter=counter)
    except ValueError as error:
        raise UserError(f"{config}: {error}") from None


def cost_of(table: Table, row: Row, task: Task, proofs: dict[str, ExpectedCost]) -> RowCost | None:
    """Count a row and compare it with what the paper prints and what is known; None where there is nothing to count.

    Raises:
        UserError: the row's config cannot be used.
    """
    config = row.config_of(task)
    if config is None:
        return None
    proof = proofs.get(config, ExpectedCost())
    if task == "classification":
        cost = count(config, proof.counter)
        params, macs = cost.params, cost.macs
    elif config in dense_costs():
        params, macs = dense_costs()[config]["params"], dense_costs()[config]["macs"]
    else:
        return None
    values = {"params": params, "flops": macs}
    wanted = [(quantity, number) for quantity, number in proof.expected().items()]
    for column in table.columns:
        expected = table.expected(row, column)
        if column.task == task and column.quantity in COSTS and expected is not None:
            wanted.append((column.quantity, expected))
    wrong = tuple(
        f"{quantity}: {values[quantity]:,} is not {number.text}"
        for quantity, number in wanted
        if not number.agrees(values[quantity])
    )
    return RowCost(params, macs, proof.counter, len(wanted), wrong)


def config_exists(config: str) -> bool:
    """Whether the file of a row's config is in the checkout."""
    return (ROOT / Path(shlex.split(config)[0])).is_file()
