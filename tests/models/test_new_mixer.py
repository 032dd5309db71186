"""CONTRIBUTING's promise: an operator is one file. A file is dropped into a copy of the checkout, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEW = '''"""A mean over the window with weights from the features: softmax of a linear map, one set for each group."""

from torch import Tensor, nn

from . import register_mixer
from .base import BlockInfo, LocalWeights, Mixer, Properties
from .d_dw_conv import resize_generator


@register_mixer("window_mean")
class WindowMean(Mixer):
    """Weights of each position's window for each head, softmax(A x_i)."""

    properties = Properties(
        positions="local window",
        channels_connected=False,
        shared_positions="no",
        shared_channels="groups",
        dynamic=True,
    )
    family = "window_mean"
    foreign_names = ((r"other\\\\.weights\\\\.", "generator."),)

    def __init__(self, info: BlockInfo, *, window_size: int = 7) -> None:
        super().__init__(info, window_size=window_size)
        self.heads = info.num_heads
        self.generator = nn.Linear(info.dim, info.num_heads * window_size**2)

    def local_weights(self, x: Tensor) -> LocalWeights:
        scores = self.generator(x).unflatten(-1, (self.heads, self.window_size**2))
        return LocalWeights(scores.softmax(-1).unflatten(-1, (self.window_size, self.window_size)))

    def resize_parameter(self, name: str, value: Tensor) -> Tensor | None:
        return resize_generator(value, self.heads, self.window_size) if name.startswith("generator.") else None
'''

USE = """
import json, timm, torch, models
from models.checkpoint import convert_state, load_pretrained
from models.cost import DENSE, model_cost, paper_macs
net = timm.create_model("window_mean_nano", num_classes=5).eval()
plain = models.create_model("dw_conv_nano", num_classes=5, norm="ln").eval()
image = torch.randn(2, 3, 64, 64)
theirs = {}
for key, value in net.state_dict().items():
    parts = key.split(".")
    if parts[0] == "stages" and parts[2] == "blocks":
        key = ".".join(["layers", parts[1], "blocks", parts[3], *parts[4:]]).replace("mixer.generator", "other.weights")
    elif parts[0] == "stages":
        key = ".".join(["layers", str(int(parts[1]) - 1), *parts[2:]])
    theirs[key] = value
again = models.create_model("window_mean_nano", num_classes=5).eval()
load_pretrained(again, convert_state(theirs))
with torch.no_grad():
    exported = torch.export.export(net, (image,)).module()
    found = {
        "fused": float((models.fuse(net)(image) - net(image)).abs().max()),
        "exported": float((exported(image) - net(image)).abs().max()),
        "loaded": float((again(image) - net(image)).abs().max()),
    }
for counter in ("torch", "paper"):
    found[counter] = model_cost(net, (64, 64), counter=counter).macs
block = net.stages[0].blocks[0].mixer
x = torch.zeros(1, 16, 16, 32)
found["sum"] = paper_macs(block, x, rules=DENSE) - paper_macs(block.generator, x)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's code with one more file."""
    root, copy = Path(__file__).resolve().parents[2], tmp_path_factory.mktemp("checkout") / "copy"
    copy.mkdir()
    for name in ("models", "data", "engine", "tools", "benchmarks", "tests", "configs", "pyproject.toml"):
        source = root / name
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.png", "*.svg")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
    (copy / "models" / "mixers" / "window_mean.py").write_text(NEW.replace("\\\\", "\\"), encoding="utf-8")
    return copy


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    return subprocess.run([sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True)


def test_it_is_built_counted_fused_exported_and_loaded_from_foreign_names(checkout: Path) -> None:
    done = run(checkout, "-c", USE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fused"] < 1e-4 and found["exported"] < 1e-5 and found["loaded"] == 0
    # 16x16 positions, 32 channels, windows of 7x7: what the paper's rule would say of the sum alone.
    assert found["sum"] == 16 * 16 * 32 * 49
    assert found["paper"] == pytest.approx(found["torch"], rel=0.1)


def test_it_is_measured_and_is_what_it_declares(checkout: Path) -> None:
    done = run(checkout, "tools/analyze_operator.py", "window_mean", "--json")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert entry["declared_equals_measured"] and entry["table1"]["share_channels"] == "per group"
    assert entry["window"] == [3, 3] and entry["channel_groups"] == 2


def test_every_test_over_the_registry_runs_it(checkout: Path) -> None:
    files = ["models/test_mixers.py", "models/test_models_protocol.py", "dense/test_dense_backbone.py"]
    options = ["-q", "-p", "no:cacheprovider", "-k", "window_mean"]
    done = run(checkout, "-m", "pytest", *options, *(f"tests/{file}" for file in files))
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.rsplit(" passed", 1)[0].split()[-1]) >= 20
