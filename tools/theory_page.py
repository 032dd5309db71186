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

from engine.errors import RunStopped, TrainingFailed
from models.errors import UserError
from tools.theory.learned import default_folders, load_trained, two_images
from tools.theory.sections import Files, introduction, learned, matrices, properties, relation, translation


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/theory"), help="folder of the page and its figures")
    parser.add_argument("--run", type=Path, nargs="+", default=[], metavar="FOLDER", help="run folders to show")
    parser.add_argument("--image", type=Path, nargs=2, default=[], metavar="FILE", help="two images to look at")
    parser.add_argument("--epochs", type=int, default=2, help="for what has to be trained first (default 2)")
    args = parser.parse_args(argv)
    if args.epochs < 1:
        raise UserError(f"--epochs: must be at least 1, not {args.epochs}")
    return args


def write_page(args: argparse.Namespace) -> Path:
    """Everything from the weights to index.html, whose path is returned."""
    started = time.monotonic()
    folders = args.run or default_folders(args.output, args.epochs)
    models = [load_trained(folder) for folder in folders]
    images = two_images(models[0].config, args.image)
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


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        write_page(arguments(argv))
    except UserError as error:
        print(f"theory_page: {error}", file=sys.stderr)
        return 2
    except TrainingFailed as error:
        print(f"theory_page: {error}", file=sys.stderr)
        return 1
    except RunStopped as error:
        print(f"theory_page: {error}", file=sys.stderr)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main())
