"""Write the theory as a page: ``python tools/theory_page.py [--output DIR] [--run FOLDER ...] [--image FILE FILE]``.

The page holds what was measured and drawn in this run: Figure 1, Table 1, the matrices of Appendix A, Figure 4, the
curves of Appendix C, and learned weights side by side. ``--run`` takes run folders of train_cls.py; without it the four
nano models of the quickstart are shown, trained here for ``--epochs`` where the quickstart has not run.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/theory"), help="folder of the page and its figures")
    parser.add_argument("--run", type=Path, nargs="+", default=[], metavar="FOLDER", help="run folders to show")
    parser.add_argument("--image", type=Path, nargs=2, default=[], metavar="FILE", help="two images to look at")
    parser.add_argument("--weights", type=Path, metavar="FILE.png", help="draw the learned weights there, and no page")
    parser.add_argument("--epochs", type=int, default=2, help="for what has to be trained first (default 2)")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from models.errors import UserError
from tools.theory import weights_picture
from tools.theory.learned import default_folders, load_all, two_images
from tools.theory.sections import Files, introduction, learned, matrices, properties, relation, translation


def write_page(args: argparse.Namespace) -> Path:
    """Everything from the weights to index.html, or to one picture of them; the path of what was written."""
    started = time.monotonic()
    folders = args.run or default_folders(args.output, args.epochs)
    models = load_all(folders)
    images = two_images(models[0].config, args.image)
    if args.weights is not None:
        weights_picture.draw(models, images, args.weights)
        print(f"wrote {args.weights}")
        return args.weights
    files = Files(args.output)
    body = [
        introduction(),
        properties(files),
        matrices(files),
        relation(files),
        translation(files),
        learned(files, models, images),
    ]
    path = files.page("Local attention and depth-wise convolution, measured", body)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - started:.0f} s")
    return path


@cli.command("theory_page")
def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("MPLBACKEND", "Agg")
    args = parser().parse_args(argv)
    if args.epochs < 1:
        raise UserError(f"--epochs: must be at least 1, not {args.epochs}")
    if args.weights is not None and args.weights.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--weights {args.weights}: the name must end in .png, .pdf or .svg")
    write_page(args)


if __name__ == "__main__":
    sys.exit(main())
