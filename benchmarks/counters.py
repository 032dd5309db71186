"""What FLOP counters of others read from the models, as shares of ``model_cost``: ``python benchmarks/counters.py``.

timm's Swin-T stands beside them: a counter that misses the same share of it misses an operator, not our layers. The
counters that are not installed are named (``pip install torchinfo fvcore``; ptflops is in requirements-dev.txt).
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import create_model
from models.cost import Cost, model_cost
from models.zoo import FAMILIES
from tools.text import aligned

SIZE = 224  # pixels a side, as the paper counts
PEER = ("timm swin_tiny_patch4_window7_224", "swin")  # the same architecture as ours


def by_torch(model: nn.Module) -> float:
    """Multiply-adds by the counter of PyTorch."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, SIZE, SIZE))
    return counter.get_total_flops() / 2


def by_ptflops(model: nn.Module, backend: str) -> float:
    """Multiply-adds by ptflops, which watches operators (``aten``) or modules and functions (``pytorch``)."""
    from ptflops import get_model_complexity_info

    options = {"as_strings": False, "print_per_layer_stat": False, "verbose": False, "backend": backend}
    return get_model_complexity_info(model, (3, SIZE, SIZE), **options)[0]


def by_fvcore(model: nn.Module) -> float:
    """Multiply-adds by fvcore, from a trace."""
    from fvcore.nn import FlopCountAnalysis

    for name in ("fvcore", "fvcore.nn.jit_analysis"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return FlopCountAnalysis(model, torch.zeros(1, 3, SIZE, SIZE)).total()


def by_torchinfo(model: nn.Module) -> float:
    """Multiply-adds by torchinfo, from the parameters and the output of each module."""
    from torchinfo import summary

    return summary(model, (1, 3, SIZE, SIZE), verbose=0).total_mult_adds


COUNTERS: dict[str, Callable[[nn.Module], float]] = {
    "torch": by_torch,
    "ptflops aten": lambda model: by_ptflops(model, "aten"),
    "ptflops pytorch": lambda model: by_ptflops(model, "pytorch"),
    "fvcore": by_fvcore,
    "torchinfo": by_torchinfo,
}


def whole(cost: Cost) -> int:
    """All multiply-adds, with I-Dynamic's sum over its window, which the paper leaves out."""
    return cost.macs + cost.aggregation


def share(counter: Callable[[nn.Module], float], model: nn.Module, macs: int) -> str:
    """What a counter reads over what is right."""
    try:
        return f"{counter(model) / macs:.3f}"
    except ModuleNotFoundError as error:
        return f"no {error.name}"


@cli.command("counters")
def main() -> None:
    """Print a row for each model and a column for each counter."""
    parser().parse_args()
    models = [(f"{family}_tiny", family, create_model(f"{family}_tiny")) for family in FAMILIES]
    cost = {family: whole(model_cost(model)) for _, family, model in models}
    models.append((*PEER, timm.create_model(PEER[0].removeprefix("timm "))))
    rows = [["model", "G multiply-adds", *COUNTERS]]
    for name, family, model in models:
        shares = [share(counter, model.eval(), cost[family]) for counter in COUNTERS.values()]
        rows.append([name, f"{cost[family] / 1e9:.3f}", *shares])
    print(aligned(rows, right=True))


if __name__ == "__main__":
    sys.exit(main())
