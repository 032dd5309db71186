"""What the Triton kernels need and do, by their machine code, without a GPU: ``python benchmarks/gpu_kernels.py``.

Compiles each launch of a training step at batch 128 for each kind of GPU, and prints shared memory, registers, spills
and instructions. Results are kept in a file; what is there and has not changed is not compiled again. Compiling all
takes about half an hour on one core; --dtype, --model and --capability choose, --minutes ends early.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MODELS = tuple(
    f"{family}_{size}" for family in ("swin", "dw_conv", "d_dw_conv", "i_dynamic") for size in ("tiny", "base")
)
CAPABILITIES = (80, 86, 90, 100)
FILE = ROOT / "benchmarks" / "gpu_kernels.json"
# An H100 (SXM): multiprocessors, instructions that one issues in a cycle, cycles in a microsecond.
H100_SLOTS = 132 * 4 * 1755


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--dtype", nargs="+", choices=("fp32", "bf16", "fp16"), default=("bf16", "fp16", "fp32"))
    parser.add_argument("--capability", nargs="+", type=int, choices=CAPABILITIES, default=CAPABILITIES)
    parser.add_argument("--minutes", type=float, default=60.0, help="what is not compiled by then is not run")
    parser.add_argument("--output", type=Path, default=FILE, help="file of the results")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from benchmarks.gpu_launches import Launch, launches_of
from benchmarks.gpu_programs import SHARED_LIMIT, read_program
from benchmarks.specs import DTYPES
from engine import cli


def row_of(launch: Launch, capability: int) -> dict[str, Any]:
    """Compile one launch and describe its program. A thread's `local` bytes are what is spilled."""
    program = read_program(launch.compiled(capability))
    return {
        "kernel": launch.name,
        "capability": capability,
        "shared": program.shared,
        "registers": program.registers,
        "local": program.local,
        "loads": program.loads(),
        "executed": program.executed(launch.trips).total(),
    }


def issue_time(launch: Launch, row: dict[str, Any]) -> float:
    """Microseconds in which an H100 can issue the instructions of a launch, if nothing else held it up."""
    return math.prod(launch.grid) * launch.constants["num_warps"] * row["executed"] / H100_SLOTS


def wanted(models: list[str], dtypes: list[str]) -> list[tuple[str, str, Launch]]:
    """(model, dtype, launch) of all training steps."""
    return [(m, d, launch) for d in dtypes for m in models for launch in launches_of(m, DTYPES[d])]


def line(model: str, dtype: str, launch: Launch, row: dict[str, Any]) -> str:
    """A row of the printed table."""
    fits = "" if row["shared"] <= SHARED_LIMIT[row["capability"]] and not row["local"] else "  DOES NOT FIT"
    loads = " ".join(f"{count}x{width}B" for width, count in row["loads"].items())
    return (
        f"{model:16} {dtype:5} sm_{row['capability']:<4} {row['kernel']:15} {row['shared']:>8} {row['registers']:>5} "
        f"{row['local']:>5} {issue_time(launch, row):>8.0f}  {loads}{fits}"
    )


@cli.command("gpu_kernels")
def main() -> int:
    """Compile what is missing, print everything that was asked for."""
    args = parser().parse_args()
    rows = json.loads(args.output.read_text()) if args.output.exists() else {}
    deadline = time.monotonic() + 60 * args.minutes
    print(f"{'model':16} {'dtype':5} {'GPU':7} {'kernel':15} {'shared':>8} {'regs':>5} {'local':>5} {'us':>8}  loads")
    for capability in args.capability:
        for model, dtype, launch in wanted(args.model, args.dtype):
            key = f"{launch.variant} sm_{capability}"
            if key not in rows and time.monotonic() < deadline:
                rows[key] = row_of(launch, capability)
                args.output.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
            print(line(model, dtype, launch, rows[key]) if key in rows else f"{model} {dtype} {launch.name}: not run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
