"""Say in one screen which parts of the installation work, and how to mend what does not: `python tools/doctor.py`.

Every line is tried out, not only looked up: models are run, digits read, the compiled operators called. Exit status 0
when all is well, 1 when something is broken; the part for detection and segmentation may be absent.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once


CORE, DENSE = "core", "detection and segmentation"
MEND = {CORE: "make setup", DENSE: "make setup-dense"}


class Broken(Exception):
    """A part does not work; ``mend`` says what to do about it."""

    def __init__(self, what: str, mend: str | None = None) -> None:
        super().__init__(what)
        self.mend = mend


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    part: str
    name: str
    look: Callable[[], str]


CHECKS: list[Check] = []


def check(part: str, name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register a function that returns what it found, or raises."""

    def add(look: Callable[[], str]) -> Callable[[], str]:
        CHECKS.append(Check(part, name, look))
        return look

    return add


def pinned(file: str) -> dict[str, str]:
    """{package: version} of the pinned lines of a requirements file."""
    lines = (ROOT / file).read_text().splitlines()
    return {m[1]: m[2] for m in (re.match(r"([A-Za-z0-9_.-]+)==([^\s#;]+)", line) for line in lines) if m}


def compare(file: str) -> str:
    """Compare the installed versions with the pinned ones; other versions are told, missing packages are broken."""
    wanted, other, missing = pinned(file), [], []
    for name, number in wanted.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if found.split("+")[0] != number:
            other.append(f"{name} {found} (tried with {number})")
    if missing:
        raise Broken(f"not installed: {', '.join(missing)}")
    return f"{len(wanted)} packages" + (f"; other versions: {', '.join(other)}" if other else " as pinned")


@check(CORE, "python")
def python() -> str:
    return f"{platform.python_version()} at {sys.executable}"


@check(CORE, "requirements.txt")
def core_packages() -> str:
    return compare("requirements.txt")


@check(CORE, "torch")
def torch_works() -> str:
    import torch

    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
        raise Broken(f"torch {torch.__version__} is older than 2.10")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).sum() == 8
    if not torch.cuda.is_available():
        return f"{torch.__version__}, no GPU: {torch.get_num_threads()} threads on {os.cpu_count()} cores"
    return f"{torch.__version__}, GPU {torch.cuda.get_device_name(0)} x {torch.cuda.device_count()}"


@check(CORE, "models")
def models_run() -> str:
    import torch

    from models import create_model, list_models
    from models.ops.backend import triton_works
    from models.zoo import FAMILIES

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not triton_works():
        raise Broken(
            "Triton cannot start: plain PyTorch, which is slower, runs in place of the GPU kernels",
            "install a C compiler and Python's headers (apt-get install gcc python3-dev)",
        )
    for name in FAMILIES:
        with torch.no_grad():
            model = create_model(f"{name}_nano", num_classes=10).eval().to(device)
            logits = model(torch.randn(1, 3, 64, 64, device=device))
        if logits.shape != (1, 10) or not logits.isfinite().all():
            raise Broken(f"{name} gives wrong logits", "git status; is the checkout as committed?")
    return f"{len(list_models())} models known; a small one of each operator runs on {device}: {', '.join(FAMILIES)}"


@check(CORE, "MNIST-5k")
def digits() -> str:
    from data.readers.mnist import load_digits, mnist_file

    return f"{len(load_digits(mnist_file())[0])} digits in {mnist_file()}"


@check(DENSE, "requirements-dense.txt")
def dense_packages() -> str:
    return compare("requirements-dense.txt")


@check(DENSE, "OpenCV")
def opencv() -> str:
    import cv2

    return f"{cv2.__version__} at {Path(cv2.__file__).parent}"


@check(DENSE, "mmcv's operators")
def operators() -> str:
    import torch

    try:
        from mmcv.ops import RoIAlign, nms
    except ImportError as error:
        compiler = shutil.which("c++") or shutil.which("g++")
        how = "make setup-dense after `rm -r $(python tools/install_dense.py --where)`"
        how = how if compiler else "install a C++ compiler (apt-get install g++), then make setup-dense"
        raise Broken(f"not compiled for this torch: {str(error).splitlines()[0]}", how) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1].tolist()
    rois = torch.tensor([[0.0, 0, 0, 8, 8]], device=device)
    pooled = RoIAlign(2, 1.0, 2)(torch.ones(1, 3, 16, 16, device=device), rois)
    if kept != [0, 2] or not torch.equal(pooled, torch.ones_like(pooled)):
        raise Broken(f"nms or RoIAlign compute wrong values on {device}")
    return f"mmcv {version_of('mmcv')}: nms and RoIAlign right on {device}"


@check(DENSE, "libraries")
def libraries() -> str:
    for name in ("mmdet", "mmseg"):
        spec = find_spec(name)
        if spec is None:
            raise Broken(f"{name} is not installed")
        if not (Path(spec.origin or "").parent / ".mim" / "configs").is_dir():
            raise Broken(f"{name} carries no configs (.mim/configs)", "reinstall it from its package, not a bare copy")
    return ", ".join(f"{name} {version_of(name)}" for name in ("mmengine", "mmdet", "mmseg"))


@check(DENSE, "backbone in both")
def backbone() -> str:
    import mmdet.registry
    import mmseg.registry
    import torch

    import models.mm  # noqa: F401  registers

    for registry in (mmdet.registry.MODELS, mmseg.registry.MODELS):
        net = registry.build({"type": "ZooBackbone", "name": "dw_conv_nano"}).eval()
        with torch.no_grad():
            shapes = [tuple(m.shape[1:]) for m in net(torch.randn(1, 3, 64, 64))]
        assert shapes == [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)], shapes
    return "ZooBackbone gives its four maps in mmdet and mmseg"


@check(DENSE, "COCO evaluation")
def coco() -> str:
    import faster_coco_eval
    import pycocotools.mask

    assert pycocotools.mask.area(pycocotools.mask.frPyObjects([[0, 0, 4, 0, 4, 4, 0, 4]], 8, 8))[0] == 16
    return f"pycocotools {version('pycocotools')}, faster-coco-eval {faster_coco_eval.__version__}"


@check(DENSE, "photographs")
def photographs() -> str:
    from data.prepare.scenes import load_photographs

    return f"{sum(len(load_photographs(split)) for split in ('train', 'val'))} in scikit-image and scikit-learn"


def version_of(module: str) -> str:
    """The version that a module states."""
    return str(__import__(module).__version__)


def examine(item: Check) -> dict[str, str]:
    """Run one check. Whatever it raises becomes a broken line with the way to mend it."""
    row = {"part": item.part, "name": item.name}
    try:
        return row | {"status": "ok", "found": item.look()}
    except Exception as error:  # any failure of an installation is what this tool is for
        mend = getattr(error, "mend", None) or MEND[item.part]
        text = str(error).splitlines()[0] if str(error) else ""
        found = text if isinstance(error, Broken) else f"{type(error).__name__}: {text}"
        return row | {"status": "broken", "found": found, "mend": mend}


@cli.command("doctor")
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    without_dense = find_spec("mmengine") is None and find_spec("mmdet") is None
    rows = [examine(item) for item in CHECKS if item.part == CORE or not without_dense]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        for part in (CORE, DENSE):
            print(part)
            for row in (row for row in rows if row["part"] == part):
                print(f"  {row['status']:6}  {row['name']:22}  {row['found']}")
                if "mend" in row:
                    print(f"          {'':22}  mend: {row['mend']}")
        if without_dense:
            print(f"  absent  not installed; {MEND[DENSE]} adds it")
    return 1 if any(row["status"] == "broken" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
