"""Compose the embedded data set of detection and segmentation: ``python tools/make_scenes.py [ROOT] [--train N]``.

What lies in ROOT then is described in data/prepare/scenes.py. The same seed gives the same files.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", default=Path("datasets/scenes"))
    parser.add_argument("--train", type=int, default=1280, help="number of training scenes")
    parser.add_argument("--val", type=int, default=120, help="number of validation scenes")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from data.prepare.scenes import make_digits, make_scenes


@cli.command("make_scenes", (OSError,))
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    start = time.perf_counter()
    counts = make_scenes(args.root, args.train, args.val, args.seed)
    make_digits(args.root / "digits", seed=args.seed)
    for split, numbers in counts.items():
        print(f"{split}: {numbers['images']} images, {numbers['objects']} digits")
    print(f"{args.root}: made in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
