"""The comparison models that timm does not have: sizes, shapes, gradients, and what was put in place of what."""

import pytest
import timm
import torch
import torch.nn.functional as F

from models import create_model, list_models
from models.comparison.pvt import PVT, PVTBlock, ReducedAttention
from models.comparison.resnet import basic_block_resnet
from models.comparison.swapped import TokenMixer, svt_with_mixer, volo_with_mixer
from models.mixers.dw_conv import StaticDepthwise
from models.mixers.window_attention import WindowAttention

PARAMETERS = {
    "pvt_small": 24_485_864,
    "pvt_medium": 44_208_104,
    "pvt_large": 61_369_320,
    "resnet38_basic": 28_372_744,
    "resnet72_basic": 48_444_168,
    "resnet106_basic": 64_974_600,
    "volo_d1_local_attention": 26_558_120,
    "volo_d1_dw_conv": 26_299_088,
    "svt_small_dw_conv": 22_445_672,
}
SMALL = ("pvt_small", "resnet38_basic", "volo_d1_local_attention", "volo_d1_dw_conv", "svt_small_dw_conv")


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_to_the_last_unit(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count(create_model(name)) == parameters


@pytest.mark.parametrize("name", PARAMETERS)
def test_known_to_the_zoo_and_to_timm(name: str) -> None:
    assert name in list_models()
    with torch.device("meta"):
        assert type(timm.create_model(name)) is type(create_model(name))


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = (
        create_model(name, img_size=64, num_classes=5) if "resnet" not in name else create_model(name, num_classes=5)
    )
    if "volo" in name:  # its auxiliary head is used by token labelling alone
        model.aux_head = None
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", ["pvt_small", "svt_small_dw_conv", "volo_d1_dw_conv"])
def test_stochastic_depth_and_head_are_arguments(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=7, drop_path_rate=0.3, in_chans=1)
        assert model(torch.empty(1, 1, 224, 224)).shape == (1, 7)
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)


def test_pvt_has_the_heads_of_its_paper() -> None:
    """Table 1 of PVT: a number that no parameter shows."""
    with torch.device("meta"):
        model = create_model("pvt_small")
    assert [{block.attn.num_heads for block in stage.blocks} for stage in model.stages] == [{1}, {2}, {5}, {8}]


@pytest.mark.parametrize("reduction", [1, 2])
def test_pvt_attention_is_torchs_over_the_reduced_map(reduction: int) -> None:
    layer, x = ReducedAttention(8, 2, reduction), torch.randn(2, 24, 8)
    source = x
    if reduction == 2:  # each key is of a patch of the 4x6 map
        grid = x.view(2, 4, 6, 8)
        patches = [grid[:, row : row + 2, column : column + 2] for row in (0, 2) for column in (0, 2, 4)]
        reduced = [torch.einsum("bijc,ocij->bo", patch, layer.reduce.weight) for patch in patches]
        source = F.layer_norm(torch.stack(reduced, 1) + layer.reduce.bias, (8,), eps=1e-6)
    projections = [torch.cat((getattr(layer.q, name), getattr(layer.kv, name))) for name in ("weight", "bias")]
    out = (0.0, layer.proj.weight, layer.proj.bias)
    inputs = [tokens.transpose(0, 1) for tokens in (x, source, source)]
    expected, _ = F.multi_head_attention_forward(*inputs, 8, 2, *projections, None, None, False, *out)
    torch.testing.assert_close(layer(x, (4, 6)), expected.transpose(0, 1))


def test_pvt_block_without_its_branches_is_the_identity() -> None:
    block, x = PVTBlock(8, 2, 4, 2, 0.0), torch.randn(2, 24, 8)
    for layer in (block.attn.proj, block.mlp.fc2):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    assert torch.equal(block(x, (4, 6)), x)


def test_pvt_hands_maps_on_as_they_lie() -> None:
    model = PVT(depths=(1, 1, 1, 1), img_size=(32, 64)).eval()
    image = x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        for stride, stage in zip((4, 8, 16), model.stages, strict=False):
            x = stage(x)[0].unflatten(1, (32 // stride, 64 // stride)).permute(0, 3, 1, 2)
        torch.testing.assert_close(model.forward_features(image), model.norm(model.stages[3](x)[0]))


def test_pvt_takes_other_sizes_by_interpolated_positions() -> None:
    torch.manual_seed(0)
    model = create_model("pvt_small", img_size=64, num_classes=3).eval()
    other = create_model("pvt_small", img_size=96, num_classes=3).eval()
    state = model.state_dict()
    for stage, part in enumerate(model.stages):
        first = int(stage == 3)  # the class token has a position of its own, which stays
        table = part.pos_embed[:, first:].mT.unflatten(2, part.grid)
        grown = F.interpolate(table, other.stages[stage].grid, mode="bilinear").flatten(2).mT
        state[f"stages.{stage}.pos_embed"] = torch.cat((part.pos_embed[:, :first], grown), 1)
    other.load_state_dict(state)
    x = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(model(x), other(x))


def test_pvt_checkpointing_changes_no_value() -> None:
    torch.manual_seed(0)
    model = create_model("pvt_small", img_size=32, num_classes=3)
    x = torch.randn(1, 3, 32, 32)
    expected = model(x)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), expected)


def test_pvt_head_can_be_replaced_and_removed() -> None:
    model = create_model("pvt_small", img_size=32, num_classes=3)
    model.reset_classifier(4)
    tokens = model.forward_features(torch.randn(1, 3, 32, 32))
    assert tokens.shape == (1, 2, 512)
    assert model.forward_head(tokens).shape == (1, 4)
    assert model.forward_head(tokens, pre_logits=True).shape == (1, 512)
    model.reset_classifier(0)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 512)


def test_resnet_stem_divides_the_size_by_four() -> None:
    with torch.device("meta"):
        model = create_model("resnet38_basic")
        x = model.maxpool(model.act1(model.bn1(model.conv1(torch.empty(1, 3, 224, 224)))))
    assert x.shape == (1, 64, 56, 56)


@pytest.mark.parametrize(
    ("name", "kind"), [("volo_d1_local_attention", WindowAttention), ("volo_d1_dw_conv", StaticDepthwise)]
)
def test_volo_has_our_operator_in_its_four_outlookers(name: str, kind: type) -> None:
    with torch.device("meta"):
        model = create_model(name)
    mixers = [module for module in model.modules() if isinstance(module, kind)]
    assert mixers == [outlooker.attn for outlooker in model.network[0]]
    assert len(mixers) == 4
    assert not [module for module in model.modules() if type(module).__name__ == "OutlookAttention"]


def test_volo_windows_shift_in_every_second_block() -> None:
    with torch.device("meta"):
        model = create_model("volo_d1_local_attention")
    attentions = [outlooker.attn for outlooker in model.network[0]]
    assert [(a.num_heads, a.window_size, a.shift) for a in attentions] == [(6, 7, 0), (6, 7, 3)] * 2


def test_svt_has_our_operator_in_place_of_nine_local_attentions() -> None:
    with torch.device("meta"):
        model, original = create_model("svt_small_dw_conv"), timm.create_model("twins_svt_small")
    swapped = {key for key, module in model.named_modules() if isinstance(module, TokenMixer)}
    local = {key for key, m in original.named_modules() if type(m).__name__ == "LocallyGroupedAttn"}
    assert swapped == local
    assert len(swapped) == 9


def test_mixers_put_into_other_models_start_as_in_ours() -> None:
    """Linear layers: standard deviation 0.02, where PyTorch's own of 48 inputs would be 0.083."""
    sizes = {"img_size": 64, "num_classes": 2, "num_heads": (2, 2, 2, 2), "embed_dim": (48, 48, 48, 48)}
    volo = volo_with_mixer(mixer="window_attention", layers=(1, 1, 1, 1), **sizes)
    svt = svt_with_mixer(mixer="window_attention", depths=(1, 1, 1, 1), **sizes)
    for model in (volo, svt):
        mixer = next(module for module in model.modules() if isinstance(module, WindowAttention))
        stds = [module.weight.std().item() for module in mixer.modules() if isinstance(module, torch.nn.Linear)]
        assert stds == pytest.approx([0.02] * 2, rel=0.1)


def test_resnet_stem_starts_as_timms_convolutions_do() -> None:
    """He's normal initialisation by the outputs: 32 and 64 channels, 3x3."""
    stem = basic_block_resnet(layers=(1, 1, 1, 1), num_classes=2).conv1
    for conv, fan_out in ((stem[0], 32 * 9), (stem[3], 64 * 9)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_token_mixer_keeps_rows_and_columns_apart() -> None:
    torch.manual_seed(0)
    mixer = torch.nn.Conv2d(2, 2, 3, padding=1)
    nhwc = TokenMixer(lambda x: mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    x = torch.randn(1, 4, 6, 2)
    expected = mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(nhwc(x.reshape(1, 24, 2), (4, 6)).view(1, 4, 6, 2), expected)


def test_an_unknown_override_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"model\.drop_path: .*drop_path_rate"):
        create_model("pvt_small", drop_path=0.1)
