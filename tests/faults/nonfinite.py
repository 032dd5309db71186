"""Values that are not finite."""

import json
import random

import torch
from safetensors.torch import load_file

from engine.errors import EXIT_FAILURE
from tests.faults.inject import Injection
from tests.faults.small_run import SmallRuns
from tests.faults.trials import Outcome, fault

LATE = ["train.log_every=100", "train.optimizer_args.fused=true"]  # as on a GPU: the device skips, the host reads later


@fault(
    "NaN in the images of one rank of two",
    "all ranks skip these steps and count them; the run ends well with finite weights",
    full=8,
    short=2,
)
def nan_on_one_rank(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """One to three steps in a row, on either rank."""
    for number in range(trials):
        output, rank = small_runs.folder(), number % 2
        first = draw.randint(0, 5)
        length = draw.randint(1, 3)
        poison = Injection("poison_images", rank, {"first": first, "last": first + length - 1})
        ended = small_runs.start(output, LATE[: 2 * rank], ranks=2, faults=[poison]).wait()
        statuses = [e.status for e in ended]
        finite = statuses == [0, 0] and _finite(load_file(output / "last.safetensors"))
        skipped = json.loads((output / "result.json").read_text())["skipped_steps"] if finite else None
        outcome.count(finite and skipped == length, f"{statuses}, skipped {skipped} of {length}: {ended[0].last_line}")


@fault(
    "ten steps in a row that are not finite",
    f"all ranks exit {EXIT_FAILURE}; the dump names the first bad module",
    full=6,
    short=1,
)
def diverge(small_runs: SmallRuns, trials: int, draw: random.Random, outcome: Outcome) -> None:
    """A module's output becomes infinite on one rank, or on all of one."""
    for number in range(trials):
        output, ranks = small_runs.folder(), 1 + number % 2
        module = draw.choice(["stages.1.blocks.0.mixer", "stages.2.blocks.0.mlp.fc1", "patch_embed.proj", "head"])
        break_it = Injection("infinite_layer", ranks - 1, {"name": module, "first": 2})
        overrides = ["train.epochs=6", *LATE[: 2 * (number % 2 == 0)]]
        ended = small_runs.start(output, overrides, ranks, [break_it]).wait()
        dumps = list(output.glob("nonfinite-step-*.json"))
        named = json.loads(dumps[0].read_text())[ranks - 1]["first_bad"] if dumps else ""
        good = all(e.status == EXIT_FAILURE for e in ended) and f"the output of {module} (" in named
        good = good and named in ended[0].last_line and dumps[0].name == "nonfinite-step-000000011.json"
        outcome.count(good, f"{module}: {[e.status for e in ended]}, named {named!r}: {ended[0].last_line}")


def _finite(weights: dict[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(w.float()).all()) for w in weights.values())
