"""The models that ``create_model`` knows: ``python tools/models.py [PATTERN ...] [--pretrained] [--json]``.

One line each: name, operator, parameters, multiply-adds of one image by torch's counter, nominal input, top-1 in the
paper, and whether weights of it are released, so that ``create_model(NAME, pretrained=True)`` has some.
"""

import argparse
import json
import sys
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="names, also with * (default: all)")
    parser.add_argument("--pretrained", action="store_true", help="only models whose weights are released")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from tools.tables.model_list import HEADER, chosen, lines

WIDTHS = (0, 28, 13, 17, 9, 20, 8)  # of the columns, the first as wide as its longest name


@cli.command("models")
def main() -> None:
    args = parser().parse_args()
    names = chosen(args.patterns, args.pretrained)
    if args.json:
        print(json.dumps([line.to_json() for line in lines(names)], indent=1))
        return
    widths = (max(map(len, names)) + 2, *WIDTHS[1:])
    for cells in chain([HEADER], (line.cells() for line in lines(names))):  # each as soon as it is counted
        print("".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
