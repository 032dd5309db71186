"""Every experiment is one YAML: each is loaded, built and run as soon as it lies under configs/."""

import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml

from engine.config import load_config
from engine.optim import build_optimizer, build_schedule
from models import build_model

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def experiments(folder: Path = CONFIGS) -> list[Path]:
    """Every YAML that describes a run: it has a model, or builds on one that has."""
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.keys() & {"model", "base"}:
            found.append(path)
    return found


EXPERIMENTS = experiments()
# A base of other configs names no output; what is run gives it on the command line.
WHOLE = [path for path in EXPERIMENTS if path.name not in ("recipe.yaml", "comparison.yaml")]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_it_loads_builds_and_runs(path: Path) -> None:
    """A forward pass without values, and the optimiser and schedule that its training would begin with."""
    config = load_config(path, world_size=1)
    if config.model.num_classes is None:  # as many as the data have
        config = load_config(path, ["model.num_classes=7"], world_size=1)
    size = config.model.img_size
    height, width = (size, size) if isinstance(size, int) else size
    with torch.device("meta"):
        model = build_model(config.model)
        logits = model.eval()(torch.empty(2, config.data.channels, height, width))
    assert (logits[0] if isinstance(logits, tuple) else logits).shape == (2, config.model.num_classes)
    optimizer = build_optimizer(model, config.train)
    build_schedule(optimizer, config.train, steps_per_epoch=10)


@pytest.mark.parametrize("family", ["swin", "dw_conv", "d_dw_conv", "i_dynamic"])
@pytest.mark.parametrize(("size", "rate"), [("tiny", 0.2), ("base", 0.5)])
def test_stochastic_depth_is_that_of_section_3_2(family: str, size: str, rate: float) -> None:
    assert load_config(CONFIGS / "imagenet" / f"{family}_{size}.yaml", world_size=1).model.drop_path_rate == rate


def test_every_run_has_a_folder_of_its_own() -> None:
    folders = defaultdict(list)
    for path in WHOLE:
        folders[load_config(path, world_size=1).output].append(path.name)
    assert {folder: paths for folder, paths in folders.items() if len(paths) > 1} == {}


def test_an_ablation_is_one_yaml(tmp_path: Path, repo: Path) -> None:
    """One more file in a folder of one's own, and one with a row of one's own, in a copy of the checkout."""
    copy = tmp_path / "copy"
    code = ("models", "data", "engine", "tools", "benchmarks", "tests", "configs", "docs", "detection", "segmentation")
    for name in code:
        left_out = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.png")
        shutil.copytree(repo / name, copy / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(repo / name, copy)
    own = copy / "configs" / "ablations" / "mine"
    own.mkdir()
    for name in ("swin_narrow", "dw_conv_narrow"):
        base = name.replace("_narrow", "_tiny")
        text = f"base: ../../imagenet/{base}.yaml\nmodel: {{mlp_ratio: 2}}\noutput: runs/mine/{name}\n"
        (own / f"{name}.yaml").write_text(text, encoding="utf-8")
    row = "- {key: mine, label: narrow Swin, source: ours, config: configs/ablations/mine/swin_narrow.yaml}\n"
    with (copy / "configs" / "tables" / "table9.yaml").open("a", encoding="utf-8") as table:
        table.write(row)
    tests = ["tests/test_configs.py", "tests/tools/test_tables_paper.py", "tests/tools/test_tables_configs.py"]
    for command in (
        ["tools/make_tables.py", "--table", "9"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "mine or narrow or paper or row or folder"],
    ):
        done = subprocess.run([sys.executable, *command], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        if "--table" in command:
            before, after = done.stdout.split("-- not in the paper\n")
            assert "narrow Swin" in after.splitlines()[0] and "narrow Swin" not in before
