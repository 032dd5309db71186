"""Results as a table and a file, with the machine's name; and the figure of accuracy against throughput."""

import json
import platform
import re
from pathlib import Path
from typing import Any

import torch

from benchmarks.specs import Spec
from engine.runfolder import processor_name
from tools.tables.entries import paper_prints
from tools.tables.loading import load_tables
from tools.tables.printed import NOT_PRINTED
from tools.text import aligned


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    found = {
        "name": platform.node(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return found | ({"cuda": torch.version.cuda} if device.startswith("cuda") else {})


def file_name(suite: str, about: dict[str, Any]) -> str:
    """``<suite>_<device or processor>.json``: the machine is part of the name, its host name is not."""
    part = about["processor"] + f" {about['threads']} threads" if about["device"] == "cpu" else about["device"]
    return f"{suite}_{re.sub(r'[^a-z0-9]+', '_', part.lower()).strip('_')}.json"


def group_table(result: dict[str, Any]) -> str:
    """One group as aligned text."""
    work = result["work"]
    step = "inference" if work["mode"] == "inference" else "training step"
    title = f"{step}, {work['dtype']}, batch {work['batch']}, {work['img_size']}x{work['img_size']}, {work['device']}"
    first, peer = result["rows"][0]["model"], result["ratio_to"]
    if peer is not None:
        title += f"; ratios to {peer}" + ("" if peer == first else f", as {first} failed")
    lines = [["model", "images/s", "ms (middle half)", "ratio", "peak MB", "of GEMM"]]
    for row in result["rows"]:
        if "error" in row:
            lines.append([row["model"], row["error"], "", "", "", ""])
            continue
        low, high = row["quarters"]
        lines.append(
            [
                row["model"],
                f"{row['images_per_second']:.1f}",
                f"{row['milliseconds']:.1f} ({low:.1f}-{high:.1f})",
                f"{row['ratio']:.2f}x",
                f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "-",
                f"{row['share_of_gemm']:.0%}",
            ]
        )
    return f"{title}\n{aligned(lines, right=True)}"


def operator_table(rows: list[dict[str, Any]]) -> str:
    """The operators as aligned text."""
    lines = [["operator", "ms (middle half)", "of copy bandwidth"]]
    for row in rows:
        low, high = row["quarters"]
        lines.append(
            [row["operator"], f"{row['milliseconds']:.3f} ({low:.3f}-{high:.3f})", f"{row['share_of_copy']:.0%}"]
        )
    return aligned(lines, right=True)


def paper_accuracy(spec: Spec) -> float | None:
    """Top-1 on ImageNet as the paper prints it for this model at 224 pixels, in per cent; None if it prints none."""
    ours = {"timm:swin_tiny_patch4_window7_224": "swin_tiny", "timm:swin_base_patch4_window7_224": "swin_base"}
    name = ours.get(spec.name, spec.name)
    configs = f"configs/imagenet/{name}.yaml", f"configs/comparison.yaml model.name={name}"
    printed = [paper_prints(load_tables(), config, "classification", "top1") for config in configs]
    return next((float(top1) for top1 in printed if top1 != NOT_PRINTED), None)


def draw(result: dict[str, Any], specs: dict[str, Spec], path: Path) -> bool:
    """Accuracy of the paper against throughput measured here; False where no model has a printed accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = [
        (row["images_per_second"], accuracy, row["model"])
        for row in result["rows"]
        if "error" not in row and (accuracy := paper_accuracy(specs[row["model"]])) is not None
    ]
    if not points:
        return False
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for speed, accuracy, name in points:
        axes.scatter(speed, accuracy, label=name)
    work = result["work"]
    axes.set_xlabel(f"images/s measured ({work['mode']}, {work['dtype']}, batch {work['batch']}, {work['device']})")
    axes.set_ylabel("ImageNet top-1 of the paper, %")
    axes.margins(0.15)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path)
    plt.close(figure)
    return True


def write(report: dict[str, Any], path: Path) -> None:
    """The report as JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
