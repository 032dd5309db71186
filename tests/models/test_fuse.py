"""Fused models: the same logits, no batch norm left, exports."""

import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
from models import fused as fused_layers
from models.ops import reference
from models.ops.backend import use_backend
from models.ops.inference import depthwise_relu
from models.zoo import FAMILIES

NANO = [f"{family}_nano" for family in FAMILIES]


def _trained(name: str, **overrides: object) -> nn.Module:
    """A model whose norms are no longer the identity, some with negative scales."""
    torch.manual_seed(0)
    model = models.create_model(name, img_size=36, num_classes=7, **overrides)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.8, 0.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
        elif type(module).__name__ == "CenteringBatchNorm2d":
            nn.init.normal_(module.center_weight, 0.0, 0.5)
    return model.eval()


@pytest.mark.parametrize(
    "overrides",
    [{}, {"norm": "ccbn"}, {"norm": "ln"}, {"norm": "bn"}, {"se": True, "extra_dw": True}],
    ids=["default", "ccbn", "ln", "bn", "se+dw"],
)
@pytest.mark.parametrize("name", NANO)
def test_same_logits_without_batch_norm(name: str, overrides: dict[str, object]) -> None:
    model = _trained(name, **overrides)
    fused = models.fuse(model)
    images = torch.randn(3, 3, 36, 44)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(fused(images), expected, atol=1e-5, rtol=1e-4)
    # With gradients enabled plain PyTorch runs instead of the oneDNN calls.
    torch.testing.assert_close(fused(images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "mixer_args"),
    [
        ("dw_conv_nano", {"share_channels": True}),
        ("d_dw_conv_nano", {"window_pad": True}),
        ("d_dw_conv_nano", {"share_channels": True}),
    ],
)
def test_options_of_the_operators(name: str, mixer_args: dict[str, object]) -> None:
    model = _trained(name, mixer_args=mixer_args)
    images = torch.randn(2, 3, 40, 36)
    with torch.no_grad():
        torch.testing.assert_close(models.fuse(model)(images), model(images), atol=1e-5, rtol=1e-4)


def test_original_is_untouched_and_checkpoints_load_before() -> None:
    model = _trained("dw_conv_nano")
    before = copy.deepcopy(model.state_dict())
    models.fuse(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    fresh = models.create_model("dw_conv_nano", img_size=36, num_classes=7)
    fresh.load_state_dict(before)
    images = torch.randn(2, 3, 36, 36)
    with torch.no_grad():
        torch.testing.assert_close(models.fuse(fresh)(images), model(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NANO)
def test_working_on_few_images_at_a_time_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = models.fuse(_trained(name))
    images = torch.randn(5, 3, 36, 36)
    with torch.no_grad():
        expected = fused(images)
        monkeypatch.setattr(sys.modules["models.fuse"], "BLOCK_ELEMENTS", 2 * 9 * 9 * 32 * 4)
        seen: list[int] = []
        fused.stages[0].blocks[0].register_forward_hook(lambda module, args, out: seen.append(len(out)))
        torch.testing.assert_close(fused(images), expected, atol=1e-6, rtol=1e-5)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("name", NANO)
def test_bfloat16(name: str) -> None:
    model = _trained(name)
    images = torch.randn(2, 3, 36, 36)
    with torch.no_grad():
        expected = model(images)
        got = models.fuse(model).bfloat16()(images.bfloat16()).float()
    assert (got - expected).norm() <= 2e-2 * expected.norm()


def test_flop_counter_sees_the_fused_layers() -> None:
    model = _trained("dw_conv_nano")
    counts = []
    for module in (model, models.fuse(model)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.randn(1, 3, 36, 36))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", NANO)
def test_torch_export_takes_any_batch_size(name: str) -> None:
    fused = models.fuse(_trained(name))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(fused, (torch.randn(2, 3, 36, 36),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, 36, 36)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), fused(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NANO)
def test_onnx_takes_any_batch_size(name: str, tmp_path: Path) -> None:
    fused = models.fuse(_trained(name, depths=(1, 1), num_heads=(1, 2), window_size=3))  # 9 shifted maps for 49
    path = tmp_path / f"{name}.onnx"
    torch.onnx.export(
        fused,
        (torch.randn(2, 3, 36, 36),),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.randn(batch, 3, 36, 36)
        with torch.no_grad():
            expected = fused(images).numpy()
        got = session.run(None, {"images": images.numpy()})[0]
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-3)
    if not name.startswith("swin"):  # whose position table is looked up
        # Taps are taken one by one: an unfold would gather the map by tables of rows and columns.
        graph = onnx.load(path).graph
        sizes = {constant.name: list(constant.dims) for constant in graph.initializer}
        gathers = [node for node in graph.node if node.op_type.startswith("Gather")]
        assert all(sizes[node.input[1]] in ([], [1]) for node in gathers)


def test_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        models.fuse(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))


def test_packed_weights_follow_the_weights_and_stay_out_of_copies() -> None:
    fused = models.fuse(_trained("dw_conv_nano"))
    images = torch.randn(2, 3, 36, 36)
    with torch.no_grad():
        first = fused(images)  # packs
        again = copy.deepcopy(fused)
        assert all(m.packed._packed is not None for m in fused.modules() if isinstance(m, fused_layers.FusedLinear))
        assert all(m.packed._packed is None for m in again.modules() if isinstance(m, fused_layers.FusedLinear))
        torch.testing.assert_close(again(images), first)
        again.load_state_dict({key: value * 1.5 for key, value in fused.state_dict().items()})
        changed = again(images)
    # With gradients enabled nothing is packed.
    torch.testing.assert_close(changed, again(images), atol=1e-4, rtol=1e-4)
    assert (changed - first).abs().max() > 1e-2
    assert again.state_dict().keys() == fused.state_dict().keys()
    with torch.inference_mode():
        torch.testing.assert_close(models.fuse(_trained("dw_conv_nano"))(images), first, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [(7, 7), (4, 4), (3, 3), (13, 13)])
@pytest.mark.parametrize("groups", [6, 3])
def test_depthwise_convolution_with_relu(kernel: tuple[int, int], groups: int) -> None:
    x, weight, bias = torch.randn(2, 5, 9, 6), torch.randn(groups, *kernel), torch.randn(6)
    with torch.no_grad():
        expected = reference.shared_forward(x, weight, bias).relu()
        for layout in (x, x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
            got = depthwise_relu(layout, weight, bias)
            assert got.is_contiguous()
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(depthwise_relu(x, weight, None), reference.shared_forward(x, weight, None).relu())
        with use_backend("reference"):
            torch.testing.assert_close(depthwise_relu(x, weight, bias), expected, atol=0, rtol=0)


@torch.no_grad()
def test_a_replaced_weight_is_packed_anew_wherever_it_comes_to_lie() -> None:
    layer = fused_layers.FusedLinear(nn.Parameter(torch.randn(64, 64), requires_grad=False), None)
    x = torch.randn(8, 64)
    for _ in range(20):  # memory that is freed is handed out again
        layer(x)
        for _ in range(2):
            layer.linear.weight.data = torch.randn(64, 64)
        torch.testing.assert_close(layer(x), x @ layer.linear.weight.T, rtol=1e-4, atol=1e-4)
