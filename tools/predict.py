"""Draw what trained models see in images: classes, boxes and masks, or a label for each pixel.

    python tools/predict.py IMAGES ... --model CONFIG CHECKPOINT [--model CONFIG CHECKPOINT ...] [--out DIR]

IMAGES are files, folders, and patterns in quotes ("photos/**/*.jpg"). A YAML config is a classifier, a `.py` config of
detection/ or segmentation/ a detector or segmentor. For each image and model there is a picture and an entry in
predictions.json, or in a CSV table with `--csv` or `--output FILE.csv`; with several images or models there is also
sheet.png, with the models side by side, and sheet-2.png and so on where one page is not enough.
"""

import argparse
import csv
import glob
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders, or patterns in quotes")
    parser.add_argument("--model", nargs=2, action="append", required=True, metavar=("CONFIG", "CHECKPOINT"))
    parser.add_argument("--out", type=Path, default=Path("runs/predictions"), metavar="DIR", help="folder of pictures")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the predictions: .csv or .json (default: predictions.json in DIR)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_const", dest="form", const="csv", help="predictions.csv in DIR")
    form.add_argument("--json", action="store_const", dest="form", const="json", help="predictions.json in DIR")
    parser.add_argument("--no-pictures", action="store_true", help="only the predictions")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score of a drawn object")
    parser.add_argument(
        "--classes", metavar="imagenet|FILE", help="names of a classifier's outputs, where its weights have none"
    )
    parser.add_argument("--rows", type=int, default=24, help="most images on the sheets")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from PIL import Image

from data.decode import read_upright
from data.readers.folder import is_image_name
from engine.files import write_atomic
from models.errors import UserError
from tools.pictures.draw import Prediction, draw, fit, sheets, side_of

Model = Callable[[Image.Image], Prediction]


def list_images(arguments: Iterable[str]) -> list[Path]:
    """The image files that the arguments name, each once: files, those directly in folders, and those of a pattern.

    Raises:
        UserError: an argument names none.
    """
    files: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_file():
            files.append(path)
            continue
        pattern = not path.exists() and glob.has_magic(argument)
        inside = map(Path, glob.glob(argument, recursive=True)) if pattern else path.glob("*")  # noqa: PTH207
        found = sorted(file for file in inside if is_image_name(file.name) and file.is_file())
        if not found and not pattern and not path.is_dir():
            raise UserError(f"{argument}: no such image or folder")
        if not found:
            raise UserError(f"{argument}: {'matches' if pattern else 'holds'} no image")
        files += found
    return list(dict.fromkeys(files))


def table_file(output: Path | None, form: str | None, folder: Path) -> Path:
    """Where the predictions go; the suffix is their form.

    Raises:
        UserError: the suffix is another one than the form, or neither .csv nor .json.
    """
    path = output or folder / f"predictions.{form or 'json'}"
    if path.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"--output {path}: must end in .csv or .json")
    if form is not None and path.suffix.lower() != f".{form}":
        raise UserError(f"--output {path}: --{form} wants the suffix .{form}")
    return path


def load(config: str, checkpoint: str, threshold: float, classes: str | None = None) -> Model:
    """The model of a pair of config and checkpoint, by the kind of config."""
    if config.endswith((".yaml", ".yml")):
        from tools.pictures.classifier import Classifier

        return Classifier(config, checkpoint, classes)
    if not config.endswith(".py"):
        raise UserError(f"--model {config}: neither a .yaml nor a .py config")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        from tools.pictures.dense import load_dense
    except ModuleNotFoundError as error:
        raise UserError(f"--model {config}: needs {error.name}, which `make setup-dense` installs") from error
    return load_dense(config, checkpoint, threshold=threshold)


def title(config: str, number: int, configs: list[str]) -> str:
    """A short name for a model, made unique by a number where needed."""
    stem = Path(config).stem
    return f"{stem}-{number}" if [Path(other).stem for other in configs].count(stem) > 1 else stem


@dataclass(frozen=True)
class Answer:
    """What one model says about one image."""

    image: Path
    model: str
    prediction: Prediction


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write the predictions as JSON, or as a table with all columns that any of them has."""
    if path.suffix.lower() == ".json":
        entries = [{"image": str(a.image), "model": a.model, **a.prediction.summary()} for a in answers]
        write_atomic(path, (json.dumps(entries, indent=1) + "\n").encode())
        return
    rows = [{"image": str(a.image), "model": a.model, **row} for a in answers for row in a.prediction.table()]
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["image", "model"]
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomic(path, text.getvalue().encode())


class Sheets:
    """Collects the first images and what the models see in them, in the size of a sheet.

    Args:
        rows: most images. beside: the image stands beside what is drawn into it.
    """

    def __init__(self, titles: list[str], rows: int, beside: bool) -> None:
        self._titles, self._most, self._beside = (["image"] if beside else []) + titles, rows, beside
        self._side = side_of(len(self._titles))
        self._rows: list[list[Image.Image]] = []
        self._names: list[str] = []

    def add(self, name: str, image: Image.Image, predictions: list[Prediction]) -> None:
        """Take an image as long as there is room."""
        if len(self._rows) < self._most:
            drawn = [draw(image, prediction, self._side) for prediction in predictions]
            self._rows.append(([fit(image, self._side)[0]] if self._beside else []) + drawn)
            self._names.append(name)

    def save(self, folder: Path) -> list[Path]:
        """Write the pages and return their paths; none for a single picture."""
        if sum(map(len, self._rows)) - self._beside * len(self._rows) < 2:
            return []
        paths = []
        for number, page in enumerate(sheets(self._rows, self._titles, self._names), start=1):
            paths.append(folder / ("sheet.png" if number == 1 else f"sheet-{number}.png"))
            page.save(paths[-1])
        return paths


def predict(args: argparse.Namespace) -> int:
    """Write all pictures, the sheets and the predictions; the exit status, 1 where an image could not be read."""
    output = table_file(args.output, args.form, args.out)
    files = list_images(args.images)
    configs = [config for config, _ in args.model]
    titles = [title(config, number, configs) for number, config in enumerate(configs, start=1)]
    models = [load(config, checkpoint, args.threshold, args.classes) for config, checkpoint in args.model]
    for folder in (output.parent, *([] if args.no_pictures else [args.out])):
        folder.mkdir(parents=True, exist_ok=True)
    answers: list[Answer] = []
    # What a classifier says stands below the image; boxes and labels cover it.
    pages = Sheets(titles, args.rows, beside=any(config.endswith(".py") for config in configs))
    broken = 0
    for number, file in enumerate(files):
        try:
            image = read_upright(file)
        except UserError as error:
            print(f"predict: {error}", file=sys.stderr)
            broken += 1
            continue
        found = [model(image) for model in models]
        answers += [Answer(file, name, prediction) for name, prediction in zip(titles, found, strict=True)]
        if not args.no_pictures:
            for name, prediction in zip(titles, found, strict=True):
                draw(image, prediction).save(args.out / f"{number:04d}_{file.stem}_{name}.png")
            pages.add(file.name, image, found)
    write_answers(output, answers)
    print(f"{output}: {len(answers)} predictions" + ("" if args.no_pictures else f"; pictures in {args.out}"))
    for path in pages.save(args.out):
        print(f"{path}: {len(titles)} models side by side" if len(titles) > 1 else path)
    return 1 if broken else 0


@cli.command("predict", (OSError,))
def main(argv: list[str] | None = None) -> int:
    return predict(parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
