"""The 16 dense rows of Tables 3 and 11: parameters and FLOPs as measured on the authors' models and as printed."""

import json
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from engine.dense.cost import dense_cost
from tools import model_cost
from tools.tables.costs import dense_costs

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]

# model: (parameters in M, FLOPs in G) for Cascade Mask R-CNN and for UPerNet.
ROWS = {
    "swin-tiny": ((85.630, 747.458), (59.942, 946.751)),
    "dw-conv-tiny": ((81.514, 729.617), (55.826, 927.910)),
    "d-dw-conv-tiny": ((108.473, 729.676), (82.785, 927.971)),
    "i-dynamic-tiny": ((83.586, 741.129), (57.898, 939.127)),
    "swin-base": ((144.977, 986.461), (121.280, 1192.292)),
    "dw-conv-base": ((131.556, 924.318), (107.859, 1128.729)),
    "d-dw-conv-base": ((218.807, 924.477), (195.109, 1128.890)),
    "i-dynamic-base": ((137.462, 947.725), (113.765, 1152.769)),
}
PATTERNS = (
    "detection/configs/cascade-mask-rcnn_{}_fpn_3x_coco.py",
    "segmentation/configs/upernet_{}_160k_ade20k-512x512.py",
)


@pytest.mark.parametrize("task", [0, 1], ids=["detection", "segmentation"])
@pytest.mark.parametrize("model", ROWS)
def test_costs_are_the_papers(model: str, task: int) -> None:
    path = PATTERNS[task].format(model)
    cost = dense_cost(Config.fromfile(ROOT / path))
    assert (round(cost.params / 1e6, 3), round(cost.macs / 1e9, 3)) == ROWS[model][task]
    assert dense_costs()[path] == {"params": cost.params, "macs": cost.macs}  # the record is what is counted now


def test_the_tool_measures_a_dense_config(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    config = str(ROOT / PATTERNS[1].format("dw-conv-tiny"))
    monkeypatch.setattr(sys, "argv", ["model_cost.py", config, "--counter", "paper", "--json"])
    assert model_cost.main() == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["params"] == 55_826_252 and round(row["macs"] / 1e9, 3) == 927.910
    monkeypatch.setattr(sys, "argv", ["model_cost.py", config.replace("dw-conv", "dw-conf")])
    assert model_cost.main() == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "dw-conf" in error[0] and "upernet_dw-conv-tiny" in error[0]
