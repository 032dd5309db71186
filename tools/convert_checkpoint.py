"""Convert the authors', Swin's or timm's Swin weights: ``python tools/convert_checkpoint.py IN OUT.safetensors``.

Reads a ``.pth`` (weights only, nothing in it is run) or ``.safetensors`` file of a classifier or of a detector's or
segmentor's backbone; every key is used exactly once or refused by name, with what the file is of. Names the model of
the zoo that the weights are of.
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

from engine.weights import read_about, save_weights
from models.checkpoint import State, convert_state, read_weights
from models.errors import UserError
from models.recognise import describe


def converted(path: Path, weights: State) -> State:
    """The weights of a file under this project's names.

    Raises:
        UserError: a key is not known, or no block of any model is in it; names the file.
    """
    try:
        state = convert_state(weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not any(key.startswith("stages.") for key in state):
        raise UserError(f"{path}: holds no block of any model of this project, of the authors or of Swin")
    return state


@cli.command("convert_checkpoint", (OSError,))
def main() -> None:
    args = parser().parse_args()
    if args.output.suffix != ".safetensors":
        raise UserError(f"{args.output}: the output must end in .safetensors")
    weights = read_weights(args.input)
    state = converted(args.input, weights)
    save_weights(args.output, state, {**read_about(args.input), "converted_from": args.input.name})
    dropped = len(weights) - len(state)
    print(
        f"{args.output}: {len(state)} tensors from {len(weights)} keys ({dropped} follow from the shape); they are of "
        f"{describe(state) or 'a model of this project with a width of its own'}"
    )


if __name__ == "__main__":
    sys.exit(main())
