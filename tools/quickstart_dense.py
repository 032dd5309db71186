"""Train and evaluate a nano detector or segmentor on the embedded scenes, and draw what it sees.

    python tools/quickstart_dense.py detection|segmentation [--out DIR]

`make quickstart-detection` and `make quickstart-segmentation` call it. It makes the scenes, trains a classifier of
single digits and from its weights the dense model, all with the ordinary entry points, evaluates, and ends with a table
and the path of a sheet of predictions. A second call goes on where the first was stopped, or says that it is finished.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli
from tools.text import aligned

CONFIGS = {
    "detection": "detection/configs/mask-rcnn_dw-conv-nano_fpn_scenes.py",
    "segmentation": "segmentation/configs/upernet_dw-conv-nano_scenes.py",
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=sorted(CONFIGS))
    parser.add_argument("--out", type=Path, help="run folder (default: runs/quickstart-TASK)")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from data.prepare.scenes import make_digits, make_scenes

SCENES = ROOT / "datasets" / "scenes"
CLASSIFIER = ROOT / "runs" / "quickstart" / "dense_backbone"  # the output of its config
COLUMNS = {
    "detection": {
        "box AP50": ("coco/bbox_mAP_50", 100),
        "mask AP50": ("coco/segm_mAP_50", 100),
        "box AP": ("coco/bbox_mAP", 100),
        "mask AP": ("coco/segm_mAP", 100),
    },
    "segmentation": {"mIoU": ("mIoU", 1), "pixel accuracy": ("aAcc", 1)},
}
PICTURES = 8


def run(*command: str) -> None:
    """Run one of this project's commands; its failure ends this one with the same status."""
    environment = {**os.environ, "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore")}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(done.returncode)


def train_classifier() -> str:
    """Weights of a classifier of single digits, as detectors start from ImageNet; a finished one is kept."""
    run("train_cls.py", "--config", "configs/quickstart/dense_backbone.yaml")
    return str(CLASSIFIER / "best.safetensors")


def train(task: str, out: Path) -> Path:
    """Train, or go on training; the minutes spent are added up in minutes.txt. Returns the last checkpoint."""
    spent, start = out / "minutes.txt", time.perf_counter()
    before = float(spent.read_text()) if spent.is_file() else 0.0
    options = ("--data-root", str(SCENES), "--work-dir", str(out), "--seed", "0", "--pretrained", train_classifier())
    run(f"{task}/train.py", CONFIGS[task], *options, "--resume")
    spent.write_text(f"{before + (time.perf_counter() - start) / 60:.2f}\n")
    return Path((out / "last_checkpoint").read_text())


def show(task: str, out: Path, metrics: dict[str, float]) -> None:
    """The table at the end."""
    minutes = (out / "minutes.txt").read_text().strip()
    row = {name: f"{metrics[key] * scale:.1f}" for name, (key, scale) in COLUMNS[task].items()}
    row = {"model": Path(CONFIGS[task]).stem, **row, "minutes of training": minutes}
    print(f"\n{aligned([list(row), list(row.values())])}")
    print(f"scenes of digits never seen in training; pictures: {out / 'pictures' / 'sheet.png'}")


def quickstart(task: str, out: Path) -> None:
    """Scenes, training, evaluation, pictures, table."""
    result = out / "metrics.json"
    if result.is_file():
        print(f"{out}: finished already (remove the folder to begin anew)")
    else:
        counts = make_scenes(SCENES)
        make_digits(SCENES / "digits")
        print(
            f"{SCENES}: {counts['train']['images']} training and {counts['val']['images']} validation scenes",
            flush=True,
        )
        checkpoint = str(train(task, out))
        images = sorted((SCENES / "images" / "validation").glob("*.jpg"))[:PICTURES]
        model = ("--model", CONFIGS[task], checkpoint)
        run("tools/predict.py", *map(str, images), *model, "--out", str(out / "pictures"), "--threshold", "0.5")
        test = (f"{task}/test.py", CONFIGS[task], checkpoint, "--data-root", str(SCENES))
        run(*test, "--work-dir", str(out / "test"), "--json", str(result))
    show(task, out, json.loads(result.read_text()))


@cli.command("quickstart", (OSError,))
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    quickstart(args.task, (args.out or ROOT / "runs" / f"quickstart-{args.task}").resolve())


if __name__ == "__main__":
    sys.exit(main())
