"""Train the four operators on MNIST-5k: ``python tools/quickstart.py [section.key=value ...]`` (``make quickstart``).

The same code path as ImageNet training with other YAML: configs/quickstart/. Ends with a table and a figure of the
training curves. Run again, it goes on where it was stopped, or says that all is finished.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to all four configs")
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder of the four runs")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from engine.config import Config, load_config
from engine.records import RunResult
from engine.run import train
from models.cost import Cost, config_cost
from tools.plot import draw_curves, read_curve
from tools.text import aligned

CONFIGS = ROOT / "configs" / "quickstart"
OPERATORS = {
    "Swin (local attention)": "swin_nano",
    "DW-Conv": "dw_conv_nano",
    "D-DW-Conv (dynamic)": "d_dw_conv_nano",
    "I-Dynamic (per position)": "i_dynamic_nano",
}


def as_table(rows: list[tuple[str, Cost, RunResult]]) -> str:
    """Operator, parameters, MACs, top-1 and training speed, one line each; rows are (label, cost, result)."""
    lines = [["operator", "parameters", "MACs", "top-1", "training images/s"]]
    for label, cost, result in rows:
        macs = (cost.macs + cost.aggregation) / 1e6
        numbers = [f"{cost.params:,}", f"{macs:.2f} M", f"{result.top1:.2f}%", f"{result.images_per_second:,.0f}"]
        lines.append([label, *numbers])
    return aligned(lines, right=True, rule=True)


def run(configs: dict[str, Config], figure: Path) -> None:
    """Train what is not finished, then print the table and draw the curves."""
    begin = time.monotonic()
    results = {}
    for number, (label, config) in enumerate(configs.items(), start=1):
        print(f"\n[{number}/{len(configs)}] {label}", flush=True)
        results[label] = train(config)
    draw_curves([read_curve(config.output, label) for label, config in configs.items()], figure)
    first = next(iter(results.values()))
    print(f"\n{first.dataset}: 4,000 training and {first.eval_images:,} test digits, {first.epochs} epochs")
    print(as_table([(label, config_cost(config.model), results[label]) for label, config in configs.items()]))
    print(f"\nfigure of the training curves: {figure}")
    print(f"runs, logs and weights: {figure.parent}   (this call: {time.monotonic() - begin:.0f} s)")


@cli.command("quickstart")
def main() -> None:
    args = parser().parse_args()
    configs = {}
    for label, name in OPERATORS.items():
        output = shlex.quote(str(args.output / name))
        configs[label] = load_config(CONFIGS / f"{name}.yaml", [*args.overrides, f"output={output}"])
    run(configs, args.output / "curves.png")


if __name__ == "__main__":
    sys.exit(main())
