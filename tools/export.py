"""Take a classifier out of the project: ONNX, OpenVINO, a PyTorch program, or a folder for timm.

    python tools/export.py RUN --to onnx
    python tools/export.py dw_conv_tiny --weights FILE --to timm

NAME_OR_RUN is the folder of a training run or a model of the zoo. The export is compared with PyTorch on random
pictures at several batch sizes before it is kept; class names and how pictures are prepared travel in its metadata.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli

FORMATS = ("onnx", "openvino", "pt2", "timm")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="NAME_OR_RUN", help="a model of the zoo, or the folder of a training run")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--weights", type=Path, help="weights of a named model, or other ones for a run")
    parser.add_argument("--size", type=int, help="side of the pictures in pixels (default: as trained)")
    parser.add_argument(
        "--fixed-size", action="store_true", help="pictures of one size only, where the model would take any"
    )
    parser.add_argument("--classes", metavar="imagenet|FILE", help="names of the outputs, where the weights have none")
    parser.add_argument("--output", type=Path, help="file or, for timm, folder (default: runs/exports/NAME)")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import logging
import warnings

from models.errors import UserError
from tools.exports.formats import FORMATS as WRITERS
from tools.exports.source import read_source
from tools.exports.verified import check_packages, export


@cli.command("export", (OSError,))
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    form = WRITERS[args.to]
    check_packages(f"--to {args.to}", form.packages)
    source = read_source(args.source, args.weights, args.size, args.classes)
    output = args.output or Path("runs/exports") / (source.title + (form.suffix or "-timm"))
    if output.suffix != form.suffix and form.suffix:
        raise UserError(f"--output {output}: the name of this format ends in {form.suffix}")
    if output.exists():
        raise UserError(f"{output}: exists; remove it or name another --output")
    for note in source.notes:
        print(note)
    warnings.simplefilter("ignore")  # the exporters' own, about what they are going to change
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    verdict = export(source, form, output, args.fixed_size)
    print(f"{output}: {source.name}, {verdict}")


if __name__ == "__main__":
    sys.exit(main())
