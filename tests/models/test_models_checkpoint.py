"""Loading across windows, input sizes and class counts (section 3.4, Table 5), and refusing everything else."""

import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models import create_model
from models.checkpoint import load_pretrained, read_weights
from models.errors import UserError
from models.layers import keep_kernel_response, resize_kernel, resize_position_table, resize_window_weights
from models.ops import local_aggregate


@given(st.integers(3, 13), st.integers(3, 13), st.integers(0, 2**31))
def test_resized_kernel_keeps_the_response_to_a_constant_image(old: int, new: int, seed: int) -> None:
    kernel = torch.randn(5, old, old, generator=torch.Generator().manual_seed(seed))
    with keep_kernel_response():
        resized = resize_kernel(kernel, new)
    assert resized.shape == (5, new, new)
    assert (resized.sum((1, 2)) - kernel.sum((1, 2))).abs().max() < 1e-5
    if old == new:
        assert torch.equal(resized, kernel)


@pytest.mark.parametrize("family", ["dw_conv", "d_dw_conv", "i_dynamic"])
def test_table_5_takes_the_interpolated_values_as_they_are(family: str) -> None:
    """Torch's bicubic interpolation of each 7x7 kernel, and nothing else."""
    small, large = (create_model(f"{family}_nano", window_size=size, num_classes=3) for size in (7, 12))
    load_pretrained(large, small.state_dict())
    name = "op.weight" if family == "dw_conv" else "op.generator.expand.weight"
    old, new = (net.stages[0].blocks[0].mixer.get_parameter(name) for net in (small, large))
    kernels = old.reshape(-1, 7, 7, old[0].numel() if family != "dw_conv" else 1)
    if family == "dw_conv":
        kernels = old[..., None]
    by_torch = torch.nn.functional.interpolate(kernels.permute(0, 3, 1, 2), size=(12, 12), mode="bicubic")
    assert torch.allclose(new.reshape(by_torch.shape[0], 12, 12, -1).permute(0, 3, 1, 2), by_torch, atol=1e-6)


def test_kernel_resized_to_12_on_a_constant_image() -> None:
    kernel, image = torch.randn(4, 7, 7), torch.ones(1, 30, 30, 4)
    with keep_kernel_response():
        inner = [local_aggregate(image, resize_kernel(kernel, size))[0, 15, 15] for size in (7, 12)]
    assert (inner[0] - inner[1]).abs().max() < 1e-5


def test_position_table_is_resized_as_swin_does() -> None:
    table = torch.randn(13 * 13, 3)
    expected = F.interpolate(table.T.view(1, 3, 13, 13), size=(23, 23), mode="bicubic").view(3, -1).T
    assert torch.equal(resize_position_table(table, 12), expected)
    assert torch.equal(resize_position_table(table, 7), table)


def test_window_weights_follow_their_windows() -> None:
    weights = torch.randn(4, 2, 49, 49)
    grown = resize_window_weights(weights, (4, 4), 7)
    doubled = weights[:, 0, 0, 0].view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(grown.view(4, 4, 2, 49, 49)[:, :, 0, 0, 0], doubled)
    assert torch.equal(resize_window_weights(weights, (2, 2), 7), weights)
    larger = resize_window_weights(torch.full((1, 2, 49, 49), 1 / 49), (1, 1), 12)
    assert larger.shape == (1, 2, 144, 144) and torch.allclose(larger.sum(-1), torch.ones(()), atol=1e-4)


def test_outputs_and_inputs_of_window_weights_are_resized_each_by_its_rule() -> None:
    """w[o, i] = f[o] g[i]: f as interpolated; g scaled to its new number of taps, and what its sum lacks spread."""
    f, g = torch.randn(2, 2, 3, 3).unbind()  # of two heads
    weights = f.flatten(1)[:, :, None] * g.flatten(1)[:, None]
    outputs, inputs = (F.interpolate(part[None], size=(4, 4), mode="bicubic")[0].flatten(1) for part in (f, g))
    inputs = inputs * 9 / 16
    inputs = inputs + (g.sum((1, 2)) - inputs.sum(1))[:, None] / 16
    torch.testing.assert_close(
        resize_window_weights(weights[None], (1, 1), 4)[0], outputs[:, :, None] * inputs[:, None]
    )


CASES = {
    "swin_nano": ({}, "relative_position_bias_table"),
    "dw_conv_nano": ({}, "op.weight"),
    "d_dw_conv_nano": ({}, "expand.bias"),
    "i_dynamic_nano": ({}, "expand.weight"),
    "static": ({"mixer": "static_window"}, "mixer.weight"),
    "extra": ({"extra_dw": True}, "extra_dw.conv.weight"),
}


@pytest.mark.parametrize("case", CASES)
def test_from_224_to_384_with_window_12(case: str) -> None:
    overrides, part = CASES[case]
    name = case if case.endswith("nano") else "dw_conv_nano" if case == "extra" else "swin_nano"
    source = create_model(name, num_classes=10, **overrides)
    target = create_model(name, num_classes=10, img_size=384, window_size=12, **overrides)
    report = load_pretrained(target, source.state_dict())
    blocks = sum(len(stage.blocks) for stage in source.stages)
    assert len([line for line in report.resized if part in line]) == blocks
    assert report.replaced_head is None and torch.equal(target.head.weight, source.head.weight)
    with torch.no_grad():
        assert target.eval()(torch.randn(1, 3, 384, 384)).isfinite().all()
    same = create_model(name, num_classes=10, **overrides)
    assert load_pretrained(same, source.state_dict()).lines() == []


def test_kernels_of_another_number_of_groups_are_not_taken_for_larger_ones() -> None:
    """32 groups of 7x7 are as many rows as 8 of 14x14, and nothing else in the weights has another shape."""
    state = create_model("i_dynamic_nano", mixer_args={"groups": 32}).state_dict()
    with pytest.raises(UserError, match=r"1568 rows, the kernels of 7x7 of 32 groups; the model has 8"):
        load_pretrained(create_model("i_dynamic_nano", mixer_args={"groups": 8}), state)
    load_pretrained(create_model("i_dynamic_nano", window_size=14), state)


def test_a_resized_dynamic_model_generates_resized_kernels() -> None:
    source, target = create_model("d_dw_conv_nano").eval(), create_model("d_dw_conv_nano", window_size=12).eval()
    load_pretrained(target, source.state_dict())
    x = torch.randn(2, 9, 9, 32)
    kernels = [model.stages[0].blocks[0].mixer.op.generator(x) for model in (source, target)]
    assert torch.allclose(resize_kernel(kernels[0], 12), kernels[1], atol=1e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_another_head_is_replaced_and_reported(classes: int) -> None:
    target = create_model("dw_conv_nano", num_classes=classes)
    before = [p.clone() for p in target.head.parameters()]
    report = load_pretrained(target, create_model("dw_conv_nano", num_classes=10).state_dict())
    assert report.lines() == [f"initialised anew: head (10 classes in the checkpoint, {classes} in the model)"]
    assert all(torch.equal(one, two) for one, two in zip(before, target.head.parameters(), strict=True))


def test_other_differences_are_errors_and_load_nothing() -> None:
    state = create_model("dw_conv_nano").state_dict()
    target = create_model("dw_conv_nano")
    before = target.stages[0].blocks[0].mixer.op.weight.clone()
    missing = {key: value for key, value in state.items() if key != "norm.weight"}
    for broken, words in (
        (missing, "missing, first norm.weight"),
        (state | {"stages.0.odd": torch.zeros(1)}, "unexpected, first stages.0.odd"),
        (state | {"patch_embed.proj.bias": torch.zeros(5)}, r"patch_embed.proj.bias: shape \(5,\)"),
        (create_model("swin_nano").state_dict(), "does not fit the model"),
    ):
        with pytest.raises(UserError, match=words):
            load_pretrained(target, broken)
    assert torch.equal(target.stages[0].blocks[0].mixer.op.weight, before)


def test_static_windows_refuse_another_input_size() -> None:
    for shared in (False, True):
        model = create_model("swin_nano", mixer="static_window", mixer_args={"share_windows": shared}, img_size=56)
        assert model(torch.randn(1, 3, 56, 56)).shape == (1, 1000)
        with pytest.raises(ValueError, match=r"map is 16x16 but its weights belong to 14x14.*img_size"):
            model(torch.randn(1, 3, 64, 64))


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


def test_unreadable_and_malicious_files_are_refused_by_name(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": _Payload(marker)}))
    torch.save({"model": {"w": torch.zeros(2), "v": _Payload(marker)}}, tmp_path / "evil2.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("a file of words: torch's reader runs into an empty stack")
    for name in ("evil.pth", "evil2.pth", "cut.safetensors", "empty.pth", "none.pth", "text.pth"):
        with pytest.raises(UserError, match=name):
            read_weights(tmp_path / name)
    assert not marker.exists()


def test_pickled_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    weights = nn.Linear(2, 2).state_dict()
    torch.save({"model": weights, "epoch": 3}, tmp_path / "cls.pth")
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in weights.items()} | {"neck.w": torch.zeros(1)}},
               tmp_path / "det.pth")  # fmt: skip
    for name in ("cls.pth", "det.pth"):
        assert read_weights(tmp_path / name).keys() == weights.keys()


def test_checkpoints_of_swins_script_hold_settings_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`save_checkpoint` of Swin and of the authors: config of yacs, accuracy, the state of optimiser and schedule."""
    yacs = ModuleType("yacs.config")
    CfgNode = yacs.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", yacs)
    settings = CfgNode(MODEL=CfgNode(NAME="dwnet", DEPTHS=[2, 2]), AMP="O1")
    settings.__dict__.update(__immutable__=True, __deprecated_keys__=set(), __renamed_keys__={}, __new_allowed__=False)
    weights = {"layers.0.weight": torch.ones(2)}
    rest = {"max_accuracy": np.float64(81.2), "epoch": 299, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}
    torch.save({"model": weights, "config": settings, **rest}, tmp_path / "ckpt_epoch_299.pth")
    for name in ("yacs", "yacs.config"):
        monkeypatch.delitem(sys.modules, name)
    assert read_weights(tmp_path / "ckpt_epoch_299.pth").keys() == weights.keys()
