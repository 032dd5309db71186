"""Convert the authors', Swin's or timm's Swin weights: ``python tools/convert_checkpoint.py IN OUT.safetensors``.

Reads a ``.pth`` (weights only, nothing in it is run) or ``.safetensors`` file of a classifier or of a detector's or
segmentor's backbone; every key is used exactly once or refused by name. Names the model of the zoo that it fits.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", metavar="IN", type=Path)
    parser.add_argument("output", metavar="OUT.safetensors", type=Path)
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import torch
from safetensors.torch import save_file

from models import create_model, list_models
from models.checkpoint import State, convert_state, read_weights
from models.errors import UserError

# The parts of a checkpoint that a classifier of the zoo does not share with a dense backbone.
_ENDS = ("head.", "norm.", "norm0.", "norm1.", "norm2.", "norm3.")


def matching_models(state: State) -> list[str]:
    """Names of the zoo whose stages have exactly the checkpoint's parameters and shapes."""
    theirs = {key: value.shape for key, value in state.items() if not key.startswith(_ENDS)}
    names = []
    for name in list_models():
        with torch.device("meta"):
            own = create_model(name).state_dict()
        if {key: value.shape for key, value in own.items() if not key.startswith(_ENDS)} == theirs:
            names.append(name)
    return names


@cli.command("convert_checkpoint", (OSError,))
def main() -> None:
    args = parser().parse_args()
    if args.output.suffix != ".safetensors":
        raise UserError(f"{args.output}: the output must end in .safetensors")
    weights = read_weights(args.input)
    state = convert_state(weights)
    names = matching_models(state)
    save_file({key: value.contiguous() for key, value in state.items()}, args.output, {"format": "pt"})
    dropped = len(weights) - len(state)
    fits = ", ".join(names) or "no model of the zoo with its default arguments"
    print(
        f"{args.output}: {len(state)} tensors from {len(weights)} keys ({dropped} follow from the shape); fits: {fits}"
    )


if __name__ == "__main__":
    sys.exit(main())
