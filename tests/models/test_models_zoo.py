"""The eight models are the paper's: parameters, MACs, weight-decay groups, initialisation (PAPER section 1)."""

import json

import pytest
import torch
from timm.data import resolve_model_data_config
from timm.optim import param_groups_weight_decay
from torch import nn

from models import create_model, list_models
from models.cost import model_cost
from tools import model_cost as tool

# parameters, torch-counter MACs (G), paper-counter MACs (G), parameters with weight decay
PAPER = {
    "swin_tiny": (28_288_354, 4.4906, 4.538, None),
    "swin_base": (87_768_224, 15.4309, 15.53, None),
    "dw_conv_tiny": (24_172_744, 3.7269, 3.7733, 24_102_720),
    "dw_conv_base": (74_347_112, 12.8123, 12.9115, 74_168_064),
    "d_dw_conv_tiny": (51_131_752, 3.7538, 3.8019, 50_843_136),
    "d_dw_conv_base": (161_597_928, 12.8995, 13.0024, 160_823_296),
    "i_dynamic_tiny": (26_244_280, 4.3041, 4.3648, 26_156_544),
    "i_dynamic_base": (80_253_608, 14.1876, 14.3048, 80_039_936),
}


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


@pytest.mark.parametrize("name", PAPER)
def test_parameters_macs_and_decay(name: str) -> None:
    params, torch_macs, paper_macs, decayed = PAPER[name]
    model = on_meta(name)
    cost, paper = model_cost(model), model_cost(model, counter="paper")
    assert cost.params == params
    assert round(cost.macs / 1e9, 4) == torch_macs
    digits = len(str(paper_macs).split(".")[1])
    assert round(paper.macs / 1e9, digits) == paper_macs
    assert (cost.aggregation > 0) == name.startswith("i_dynamic")
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    counts = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    tables = sum(p.numel() for key, p in model.named_parameters() if key.endswith("bias_table"))
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert counts[0.05] == (decayed or params - vectors - tables)
    assert counts[0.0] == params - counts[0.05]


def test_aggregation_is_the_window_sum() -> None:
    positions = [(3136, 96, 2), (784, 192, 2), (196, 384, 6), (49, 768, 2)]
    assert model_cost(on_meta("i_dynamic_tiny")).aggregation == sum(n * c * 49 * blocks for n, c, blocks in positions)


def test_cost_tool_prints_the_json_of_the_interface(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["model_cost.py", "dw_conv_tiny", "swin_tiny", "--counter", "paper", "--json"])
    assert tool.main() == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["dw_conv_tiny", "swin_tiny"]
    assert rows[0] == {"name": "dw_conv_tiny", "params": 24_172_744, "macs": 3_773_263_104, "counter": "paper"}


@pytest.mark.parametrize("target", ["dw_conv_tny", "no_such.yaml", "timm:no_such_model"])
def test_cost_tool_refuses_on_one_line(target: str, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["model_cost.py", target])
    assert tool.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and target.removeprefix("timm:") in error


def test_initialisation() -> None:
    """Linear: truncated normal 0.02 and bias 0; LN 1 and 0; convolutions as PyTorch makes them; stochastic depth."""
    for name in ("swin_nano", "dw_conv_nano", "d_dw_conv_nano", "i_dynamic_nano"):
        model = create_model(name, drop_path_rate=0.2)
        for key, module in model.named_modules():
            convolution = isinstance(module, nn.Conv2d) or hasattr(module, "is_pointwise_conv")
            if isinstance(module, nn.Linear) and not convolution:
                # Of a normal cut at its bounds (-2, 2) nothing is cut here: 100 standard deviations.
                assert abs(module.weight.std().item() - 0.02) < 0.003, key
                assert module.bias is None or not module.bias.any(), key
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                assert (module.weight == 1).all() and not module.bias.any() and module.eps == 1e-5, key
            if convolution:
                bound = module.weight[0].numel() ** -0.5
                assert module.weight.abs().max() <= bound and module.weight.std() > 0.4 * bound, key
        rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
        assert rates == pytest.approx([0.2 * i / (len(rates) - 1) for i in range(len(rates))])


def test_timm_is_told_imagenets_statistics() -> None:
    """What timm's own scripts feed the models with."""
    statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    sampling = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
    assert resolve_model_data_config(on_meta("dw_conv_nano")) == statistics | sampling


def test_depthwise_convolution_starts_like_conv2d() -> None:
    ours, theirs = create_model("dw_conv_nano").stages[3].blocks[0].mixer.op, nn.Conv2d(256, 256, 7, groups=256)
    for mine, reference in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert mine.std().item() == pytest.approx(reference.std().item(), rel=0.1)
        assert mine.abs().max() <= 1 / 7
    assert not create_model("d_dw_conv_nano").stages[0].blocks[0].mixer.op.bias.any()


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="the nearest valid one is dw_conv_tiny"):
        create_model("dw_conv_tyny")
    with pytest.raises(ValueError, match=r"model\.widow_size.*window_size"):
        create_model("dw_conv_nano", widow_size=5)
    with pytest.raises(ValueError, match=r"mixer_args\.group.*groups"):
        create_model("i_dynamic_nano", mixer_args={"group": 4})
    with pytest.raises(ValueError, match="10 channels cannot be split evenly into 3"):
        create_model("swin_nano", embed_dim=10, num_heads=(3, 3, 3, 3))
    assert set(PAPER) <= set(list_models())


def test_cost_of_a_model_for_grey_images() -> None:
    grey, colour = create_model("dw_conv_nano", in_chans=1), create_model("dw_conv_nano")
    difference = model_cost(colour).macs - model_cost(grey).macs
    assert difference == 56 * 56 * 32 * 16 * 2


@pytest.mark.parametrize("name", ["swin_nano", "d_dw_conv_nano", "i_dynamic_nano"])
def test_cost_does_not_depend_on_where_the_model_lies(name: str) -> None:
    model = create_model(name).train()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    assert model_cost(model) == model_cost(on_meta(name))
    assert model.training and all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
