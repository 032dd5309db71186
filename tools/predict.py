"""Draw what trained models see in images: classes, boxes and masks, or a label for each pixel.

    python tools/predict.py IMAGE_OR_FOLDER ... --model CONFIG CHECKPOINT [--model CONFIG CHECKPOINT ...] [--out DIR]

A YAML config is a classifier, a `.py` config of detection/ or segmentation/ a detector or segmentor. For each image and
model there is a picture and an entry in predictions.json; with several images or models there is also sheet.png, with
the models side by side.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--model", nargs=2, action="append", required=True, metavar=("CONFIG", "CHECKPOINT"))
    parser.add_argument("--out", type=Path, default=Path("runs/predictions"))
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score of a drawn object")
    parser.add_argument(
        "--classes", metavar="imagenet|FILE", help="names of a classifier's outputs, where its weights have none"
    )
    parser.add_argument("--rows", type=int, default=8, help="most images on the sheet")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from PIL import Image

from data.decode import read_upright
from models.errors import UserError
from tools.pictures.draw import Prediction, draw, enlarge, sheet

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
Model = Callable[[Image.Image], Prediction]


def list_images(paths: list[Path]) -> list[Path]:
    """The image files that the arguments name: files, and those directly in folders, sorted."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"{path}: holds no image")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such image or folder")
    return files


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


def predict(args: argparse.Namespace) -> int:
    """Write all pictures, the sheet and the JSON file; the exit status, 1 where an image could not be read."""
    files = list_images(args.images)
    configs = [config for config, _ in args.model]
    titles = [title(config, number, configs) for number, config in enumerate(configs, start=1)]
    models = [load(config, checkpoint, args.threshold, args.classes) for config, checkpoint in args.model]
    args.out.mkdir(parents=True, exist_ok=True)
    records, names, broken = [], [], 0
    rows: list[list[Image.Image]] = []
    for number, file in enumerate(files):
        try:
            image = read_upright(file)
        except UserError as error:
            print(f"predict: {error}", file=sys.stderr)
            broken += 1
            continue
        row = [enlarge(image)[0]]
        for name, model in zip(titles, models, strict=True):
            prediction = model(image)
            picture = draw(image, prediction)
            picture.save(args.out / f"{number:04d}_{file.stem}_{name}.png")
            records.append({"image": str(file), "model": name, **prediction.summary()})
            row.append(picture)
        if len(rows) < args.rows:
            rows.append(row)
            names.append(file.name)
    (args.out / "predictions.json").write_text(json.dumps(records, indent=1) + "\n")
    print(f"{args.out}: {len(records)} pictures, predictions.json")
    if len(files) * len(models) > 1 and rows:
        sheet(rows, ["image", *titles], names).save(args.out / "sheet.png")
        print(f"{args.out / 'sheet.png'}: {len(rows)} images, {len(models)} models side by side")
    return 1 if broken else 0


@cli.command("predict", (OSError,))
def main(argv: list[str] | None = None) -> int:
    return predict(parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
