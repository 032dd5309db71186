"""Speed and memory of models side by side: ``python benchmarks/speed.py MODEL ... [--mode train] [--dtype bf16]``.

MODEL is a name of the zoo, ``timm:NAME``, ``torchvision:NAME`` or a config file, with ``+fuse`` (models.fuse) behind
it and one of ``+compile`` (torch.compile), ``+onnxruntime`` and ``+openvino``. Models take turns in one process; ratios
are to the first that runs, which is named. Suites are what `make bench` (standard), `make bench-rivals` and
`make bench-gpu` compare; each writes a file under benchmarks/.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine import cli


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--suite", choices=("standard", "rivals", "gpu"))
    parser.add_argument("--mode", choices=("inference", "train"), default="inference")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--img-size", type=int, help="default: of the first model if that is a config, else 224")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's choice without it")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the timing")
    parser.add_argument("--minutes", type=float, default=8.0, help="what is not timed by then is not run")
    parser.add_argument("--operators", action="store_true", help="time the operators by themselves as well")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--output", type=Path, help="file of the report; a suite has one of its own")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import torch

from benchmarks import report as reports
from benchmarks import suites
from benchmarks.measure import Timing, ceilings, interleaved, peak_memory
from benchmarks.operators import operator_rows
from benchmarks.runtimes import RUNTIMES
from benchmarks.specs import DTYPES, Spec, Work, build_model, flops_of_image, size_of, step_of
from engine.runfolder import git_commit
from models.errors import UserError


def run_group(group: suites.TimingGroup, ceiling: dict[str, float], rounds: int, deadline: float) -> dict[str, Any]:
    """Build, warm up and time the models of a group; a model that fails has a row with its error.

    ``ratio_to`` names the model that ratios are to: the first, or the first that could be timed.
    """
    steps: dict[str, Callable[[], object]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for spec in group.specs:
        try:
            steps[spec.text] = step_of(build_model(spec, group.work), spec, group.work)
            steps[spec.text]()
            rows[spec.text] = {}
            if spec.runs not in RUNTIMES:  # whose memory PyTorch does not see
                rows[spec.text]["peak_bytes"] = peak_memory(steps[spec.text], group.work.device)
        except Exception as error:  # whatever stops one model, the others are compared
            steps.pop(spec.text, None)
            rows[spec.text] = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
        if time.monotonic() > deadline:
            break
    timings = interleaved(steps, group.work.device, rounds, deadline)
    peer = next(iter(timings), None)
    for spec in group.specs:
        row = rows.setdefault(spec.text, {"error": "not run: out of time"})
        if spec.text in timings:
            row.update(_row(spec, group.work, timings[spec.text], timings[str(peer)], ceiling))
    found = [{"model": spec.text, **rows[spec.text]} for spec in group.specs]
    return {"work": asdict(group.work), "ratio_to": peer, "rows": found}


def _row(spec: Spec, work: Work, timing: Timing, peer: Timing, ceiling: dict[str, float]) -> dict[str, Any]:
    # A training step multiplies three times: forward, and for the gradients of both factors.
    flops = flops_of_image(spec, work) * work.batch * (3 if work.mode == "train" else 1)
    return {
        "images_per_second": work.batch / timing.median,
        "milliseconds": timing.median * 1e3,
        "quarters": [timing.quarter * 1e3, timing.three_quarters * 1e3],
        "rounds": timing.rounds,
        "ratio": peer.median / timing.median,
        "share_of_gemm": flops / timing.median / 1e9 / ceiling[f"gemm_{work.dtype}"],
    }


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the device filled in.

    Raises:
        UserError: says what does not fit.
    """
    for name, least in (("batch", 1), ("img_size", 32), ("rounds", 2), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}: {value} is below {least}")
    if bool(options.models) == bool(options.suite):
        raise UserError("give MODEL ... or --suite")
    device = "cuda" if options.suite == "gpu" else options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        wanted = "--suite gpu" if options.suite else f"--device {device}"
        raise UserError(f"{wanted}: PyTorch sees no GPU here; `make bench` measures on the CPU")
    options.device = "cpu" if options.suite in ("standard", "rivals") else device
    if options.device.startswith("cuda:"):
        torch.cuda.set_device(options.device)  # clocks, memory and the card's name are the current device's
    return options


def measure(options: argparse.Namespace, groups: list[suites.TimingGroup]) -> dict[str, Any]:
    """Everything asked for, printed as it comes unless JSON is wanted."""
    deadline = time.monotonic() + 60 * options.minutes

    def show(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    dtypes = {group.work.dtype for group in groups}
    ceiling = ceilings(options.device, {name: DTYPES[name] for name in sorted(dtypes)})
    about = reports.machine(options.device)
    found = {"machine": about, "command": "python " + " ".join(sys.argv), "date": time.strftime("%Y-%m-%d")}
    found["commit"] = git_commit()
    show(f"{about['processor']}, {about['threads']} threads, {about['device']}, torch {about['torch']}")
    show("ceilings: " + ", ".join(f"{k} {v:.0f} {'GB/s' if k == 'copy' else 'GFLOP/s'}" for k, v in ceiling.items()))
    operators: list[dict[str, Any]] = []
    if options.operators or options.suite:
        operators = operator_rows(groups[0].work, ceiling["copy"], options.rounds, deadline)
        show(f"\noperators at stage 1, {groups[0].work.dtype}\n" + reports.operator_table(operators))
    results = []
    for index, group in enumerate(groups):
        left = deadline - time.monotonic()
        results.append(run_group(group, ceiling, options.rounds, time.monotonic() + left / (len(groups) - index)))
        show("\n" + reports.group_table(results[-1]))
    return {**found, "ceilings": ceiling, "groups": results, "operators": operators}


@cli.command("speed")
def main() -> None:
    """Run the comparison."""
    options = checked(parser().parse_args())
    if options.suite:
        groups = getattr(suites, options.suite)(options.device)
    else:
        size = options.img_size or size_of(options.models[0])
        work = Work(options.mode, options.dtype, options.batch, size, options.device)
        groups = [suites.group(work, options.models)]
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure(options, groups)
    path = options.output
    if path is None and options.suite:
        path = ROOT / "benchmarks" / reports.file_name(options.suite, found["machine"])
    if path is not None:
        reports.write(found, path)
        figure = path.with_suffix(".svg")
        drawn = reports.draw(found["groups"][0], {spec.text: spec for spec in groups[0].specs}, figure)
        print(f"wrote {path}" + (f" and {figure}" if drawn else ""), file=sys.stderr)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
