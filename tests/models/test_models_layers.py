"""Norms, windows and the options of a block."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_data import REFERENCE
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import create_model
from models.layers import CenteringBatchNorm2d, build_norm, normalize, pointwise_conv
from models.mixers._windows import from_windows, shift_mask, to_windows, window_shift
from models.mixers.window_attention import attend


def test_cc_bn_starts_as_bn_and_centers() -> None:
    x = torch.randn(4, 8, 5, 6)
    norm, plain = CenteringBatchNorm2d(8), nn.BatchNorm2d(8)
    assert torch.equal(norm(x), plain(x))
    nn.init.normal_(norm.center_weight)
    means = torch.stack([image.flatten(1).mean(1) for image in x])
    by_hand = torch.stack([image + (norm.center_weight * m)[:, None, None] for image, m in zip(x, means, strict=True)])
    before = x.clone()
    assert torch.allclose(norm(x), plain(by_hand), atol=1e-6) and torch.equal(x, before)


def test_cc_bn_equals_the_reference_module() -> None:
    """The reference has a second, scaling step, with sigmoid weights; ours is its input."""
    t = load_file(REFERENCE / "rbn_module.safetensors")
    norm = CenteringBatchNorm2d(8)
    with torch.no_grad():
        norm.center_weight.copy_(t["model.center_weight"].flatten())
    norm.bn.running_mean, norm.bn.running_var = t["model.running_mean"].clone(), t["model.running_var"].clone()
    scale = [t[f"model.{key}"] for key in ("scale_weight", "scale_bias", "weight", "bias")]

    def finish(normalised: torch.Tensor) -> torch.Tensor:
        factor = torch.sigmoid(scale[0] * normalised.mean((2, 3), keepdim=True) + scale[1])
        return normalised * factor * scale[2] + scale[3]

    for key in [key for key in t if key.startswith("io.") and "out" in key]:
        norm.train("train" in key)
        assert (finish(norm(t["io.input"])) - t[key]).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["ln", "bn", "ccbn"])
def test_norms_on_nhwc_maps(kind: str) -> None:
    x = torch.randn(2, 5, 7, 8)
    norm = build_norm(kind, 8)
    y = normalize(norm, x)
    assert y.shape == x.shape and y.is_contiguous()
    axes = (3,) if kind == "ln" else (0, 1, 2)
    assert y.mean(axes).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"norm: 'gn' is not known \(one of: ln, bn, ccbn\)"):
        build_norm("gn", 8)


@pytest.mark.parametrize("norm", ["ln", "bn", "ccbn"])
@pytest.mark.parametrize("name", ["swin_nano", "dw_conv_nano", "d_dw_conv_nano", "i_dynamic_nano"])
def test_every_norm_in_every_block(name: str, norm: str) -> None:
    model = create_model(name, norm=norm, num_classes=3)
    own = {
        type(module)
        for key, module in model.stages.named_modules()
        if key.split(".")[-1].startswith("norm") and "downsample" not in key and "generator" not in key
    }
    assert type(build_norm(norm, 1)) in own and len(own - {nn.Identity}) == 1
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert not any(type(m) is nn.BatchNorm2d for m in synced.modules())


class Dropped(nn.Module):
    """Stochastic depth that drops every branch, and counts them."""

    branches = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.branches += 1
        return torch.zeros_like(x)


@pytest.mark.parametrize(("options", "branches"), [({}, 2), ({"se": True}, 2), ({"extra_dw": True}, 3)], ids=str)
def test_a_block_whose_branches_are_dropped_is_the_identity(options: dict[str, bool], branches: int) -> None:
    block = create_model("dw_conv_nano", **options).stages[0].blocks[0]
    block.drop_path, x = Dropped(), torch.randn(2, 5, 6, 32)
    assert torch.equal(block(x), x) and block.drop_path.branches == branches


def test_pointwise_is_a_1x1_convolution() -> None:
    ours, theirs = pointwise_conv(6, 10, bias=True), nn.Conv2d(6, 10, 1)
    ours.load_state_dict(theirs.state_dict())  # (10, 6, 1, 1) as (10, 6)
    x = torch.randn(2, 4, 5, 6)
    assert torch.allclose(ours(x), theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), atol=1e-6)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 9), st.booleans())
def test_windows_are_inverted_for_any_size(height: int, width: int, window: int, shifted: bool) -> None:
    x = torch.randn(2, height, width, 3)
    shift = window_shift((height, width), window, window // 2 if shifted else 0)
    windows = to_windows(x, window, shift)
    assert windows.shape[2] == window**2
    assert torch.equal(from_windows(windows, window, (height, width), shift), x)


@given(st.integers(8, 20), st.integers(3, 7))
def test_shift_mask_keeps_apart_what_the_roll_brought_together(side: int, window: int) -> None:
    shift = window_shift((side, side), window, window // 2)
    padded = -(-side // window) * window
    mask = shift_mask((side, side), window, shift, torch.zeros(()))
    rows = torch.arange(padded).view(1, padded, 1, 1).expand(1, padded, padded, 1).float()
    columns = rows.transpose(1, 2)
    where = torch.cat([rows, columns], -1).contiguous()
    positions = to_windows(where, window, shift)[0]
    distance = (positions[:, :, None] - positions[:, None]).abs().amax(-1)
    assert torch.equal(mask == 0, distance < window)


def test_even_kernels_keep_the_size() -> None:
    for name in ("dw_conv_nano", "d_dw_conv_nano", "i_dynamic_nano"):
        maps = create_model(name, window_size=12).eval().forward_intermediates(torch.randn(1, 3, 65, 90), indices=[0])
        assert maps[1][0].shape[2:] == (17, 23)


class Recorder(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_attention_that_learns_on_a_cpu_looks_for_no_masked_rows() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    table = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    bias = table.masked_fill(torch.eye(5, dtype=torch.bool), float("-inf"))
    grad = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    wanted = torch.nn.functional.scaled_dot_product_attention(*leaves, attn_mask=bias)
    with Recorder() as recorder:
        got = attend(*leaves, bias)
        gradients = torch.autograd.grad(got, [*leaves, table], grad, retain_graph=True)
    assert "aten::_softmax" in recorder.names and "aten::all" not in recorder.names
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(gradients, torch.autograd.grad(wanted, [*leaves, table], grad))
