"""Whatever one may ask of a timm model can be asked of the zoo, for any input."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import models
from models import ModelConfig, build_model, create_model
from models.errors import UserError
from models.zoo import FAMILIES

NANO = [f"{family}_nano" for family in FAMILIES]
# Stage 1 shifts its second block, stage 3 has maps smaller than a window. The named models are the same code with more
# blocks: minutes of tracing, so they are run by name.
TRACED = [(f"{family}_nano", {"depths": (2, 1, 2, 1)}) for family in FAMILIES] + [
    pytest.param(f"{family}_{size}", {}, marks=pytest.mark.slow) for size in ("tiny", "base") for family in FAMILIES
]


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(NANO), st.integers(32, 97), st.integers(32, 97), st.integers(1, 4), st.sampled_from([0, 1, 7]))
def test_any_size_channels_and_classes(name: str, height: int, width: int, chans: int, classes: int) -> None:
    model = create_model(name, in_chans=chans, num_classes=classes).eval()
    image = torch.randn(1, chans, height, width)
    with torch.no_grad():
        maps = model.forward_intermediates(image, intermediates_only=True)
        assert model(image).shape == (1, classes or model.num_features)
    expected = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    assert [tuple(each.shape[2:]) for each in maps] == expected


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("in_chans", 0), ("embed_dim", 0), ("window_size", 0), ("window_size", -7), ("depths", (2, -2, 2, 2)),
        ("num_classes", -1), ("patch_size", 0), ("img_size", 0), ("img_size", (32, 0)), ("drop_path_rate", 2),
        ("drop_path_rate", float("nan")), ("drop_rate", -0.5), ("mlp_ratio", 0), ("embed_dim", 10**30),
    ],
)  # fmt: skip
def test_a_number_out_of_its_limits_is_named(argument: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^{argument}: must lie between "):
        create_model("dw_conv_nano", **{argument: value})


@pytest.mark.parametrize("name", NANO)
def test_protocol(name: str) -> None:
    model = create_model(name, num_classes=5).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(image)
        assert torch.equal(model.forward_head(features), model(image))
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (2, model.num_features) and features.shape == (2, 2, 2, model.num_features)
        last, maps = model.forward_intermediates(image)
        assert torch.equal(last, features) and len(maps) == 4
        normed = model.forward_intermediates(image, indices=[3], norm=True, output_fmt="NHWC", intermediates_only=True)
        assert torch.equal(normed[0], features)
        for indices in ([0, 1], [2], [0, 1, 2], [3]):  # what is left out is what nobody asked for
            last, maps = model.forward_intermediates(image, indices=indices, stop_early=True)
            whole = model.forward_intermediates(image, indices=indices, intermediates_only=True)
            assert all(torch.equal(one, two) for one, two in zip(maps, whole, strict=True))
            assert torch.equal(last, features if indices == [3] else maps[-1].permute(0, 2, 3, 1))
    assert isinstance(model.get_classifier(), nn.Linear)
    model.reset_classifier(3)
    assert model(image).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    assert torch.equal(model(image), model.forward_head(model.forward_features(image), pre_logits=True))
    assert model.default_cfg["classifier"] == "head" and model.default_cfg["crop_pct"] == 0.875
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32]
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert sum(len(names) for names in groups.values()) == len(list(model.parameters()))


@pytest.mark.parametrize("name", NANO)
def test_features_only_by_timm(name: str) -> None:
    net = timm.create_model(name, features_only=True).eval()
    maps = net(torch.randn(1, 3, 96, 64))
    assert [tuple(each.shape) for each in maps] == [(1, 32 * 2**i, 24 // 2**i, 16 // 2**i) for i in range(4)]
    assert net.feature_info.channels() == [32, 64, 128, 256] and net.feature_info.reduction() == [4, 8, 16, 32]
    assert len(timm.create_model(name, features_only=True, out_indices=(1,))(torch.randn(1, 3, 64, 64))) == 1


@pytest.mark.parametrize("name", NANO)
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_nothing(name: str) -> None:
    image = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        torch.manual_seed(1)
        model = create_model(name, num_classes=4)
        model.set_grad_checkpointing(enable)
        model(image).square().sum().backward()
        missing = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # A bias before a batch norm is taken out again by its mean.
        assert [key for key in missing if not key.endswith("generator.reduce.bias")] == []
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", NANO)
def test_a_graph_that_is_kept_is_walked_back_twice_with_checkpointing(name: str) -> None:
    image = torch.randn(2, 3, 64, 64)
    gradients, counts = [], []
    for enable in (False, True):
        torch.manual_seed(1)
        model = create_model(name, num_classes=4)
        model.set_grad_checkpointing(enable)
        logits = model(image)
        for column in range(2):
            logits[:, column].sum().backward(retain_graph=column == 0)
        gradients.append([p.grad for p in model.parameters()])
        counts.append([buffer for key, buffer in model.named_buffers() if key.endswith("num_batches_tracked")])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert all(one == two == 1 for one, two in zip(*counts, strict=True))


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("emptied", [False, True])
def test_a_model_from_the_meta_device_is_whole_once_it_has_its_weights(name: str, emptied: bool) -> None:
    model, image = create_model(name, num_classes=4).eval(), torch.randn(1, 3, 64, 64)
    with torch.device("meta"):
        other = create_model(name, num_classes=4).eval()
    if emptied:
        other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict(), assign=not emptied)
    with torch.no_grad():
        assert torch.equal(other(image), model(image))


def test_set_input_size_keeps_what_is_frozen_and_knows_parts_of_a_model() -> None:
    model = create_model("dw_conv_nano", num_classes=4).requires_grad_(False)
    model.stages[3].requires_grad_(True)
    model.train()
    model.stages[0].eval()
    model.head = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(model.num_features, 3))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    model.set_input_size(96, window_size=5)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trained
    assert [stage.blocks[0].norm2.training for stage in model.stages] == [False, True, True, True]
    features = timm.create_model("swin_nano", features_only=True, out_indices=(1, 2), img_size=64)
    features.model.set_input_size(96)
    assert [tuple(each.shape[-2:]) for each in features(torch.randn(1, 3, 96, 96))] == [(12, 12), (6, 6)]


@pytest.mark.parametrize("name", NANO)
def test_set_input_size_keeps_what_it_can(name: str) -> None:
    model = create_model(name, num_classes=4, img_size=224).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = model(image)
        model.set_input_size(img_size=224, window_size=7)
        assert torch.equal(model(image), before)
        model.set_input_size(img_size=384, window_size=12)
        assert model(torch.randn(1, 3, 384, 384)).shape == (1, 4)
    assert model.init_args["window_size"] == 12


@pytest.mark.parametrize(("name", "options"), TRACED)
def test_compile_has_no_graph_break(name: str, options: dict[str, tuple[int, ...]]) -> None:
    model = create_model(name, **options).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(compiled(image), model(image), atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize(("name", "options"), TRACED)
def test_export(name: str, options: dict[str, tuple[int, ...]]) -> None:
    model = create_model(name, **options).eval()
    image = torch.randn(2, 3, 64, 64)
    program = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    with torch.no_grad():
        assert torch.allclose(program.module()(image[:1]), model(image[:1]), atol=1e-5)


def test_config_has_one_field_for_each_constructor_argument() -> None:
    from inspect import signature

    arguments = set(signature(models.backbone.LocalNet.__init__).parameters) - {"self"}
    assert set(ModelConfig.model_fields) == arguments | {"name", "pretrained", "grad_checkpointing"}


def test_config_builds_the_model_and_refuses_the_rest() -> None:
    config = ModelConfig(
        name="i_dynamic_nano", depths=[1, 1], num_heads=[1, 2], mixer_args={"groups": 4}, num_classes=3
    )
    model = build_model(config)
    assert len(model.stages) == 2 and model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    for bad in ({"name": "no_such"}, {"name": "swin_nano", "depth": 1}, {"name": "swin_nano", "num_classes": "5"},
                {"name": "swin_nano", "mixer": "dw_cnv"}):  # fmt: skip
        with pytest.raises(ValueError):
            ModelConfig(**bad)


@pytest.mark.parametrize("name", ["d_dw_conv_nano"])
def test_training_batch_of_one_image(name: str) -> None:
    """The image generator's BN sees one vector: running statistics stand in, and stay as they were."""
    model = create_model(name, num_classes=2)
    before = {key: value.clone() for key, value in model.state_dict().items() if "generator.norm.running" in key}
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    assert before and all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_one_image_is_normalised_in_training_as_in_evaluation() -> None:
    generator = create_model("d_dw_conv_nano").stages[0].blocks[0].mixer.op.generator
    norm, x = generator.norm, torch.randn(1, 5, 6, 32)
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.5, 2)
    torch.testing.assert_close(generator.train()(x), generator.eval()(x))


def test_dropout_before_the_classifier_is_for_training_alone() -> None:
    model, features = create_model("dw_conv_nano", drop_rate=0.5), torch.randn(2, 2, 2, 256)
    plain = model.head(features.mean((1, 2)))
    torch.testing.assert_close(model.eval().forward_head(features), plain)
    assert not torch.allclose(model.train().forward_head(features), plain, atol=1e-3)


@pytest.mark.parametrize("name", ["dw_conv_nano", "d_dw_conv_nano"])
def test_window_padding_changes_nothing_at_multiples(name: str) -> None:
    plain, padded = (create_model(name, mixer_args={"window_pad": pad}).eval() for pad in (False, True))
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_()  # at zero the padding of a static kernel is that of its convolution
    padded.load_state_dict(plain.state_dict())
    small, even = torch.randn(1, 3, 70, 101), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(padded(even), plain(even), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(padded(small), plain(small), atol=1e-3)


@pytest.mark.parametrize("norm", [None, "bn", "ccbn"])
def test_gradient_checkpointing_changes_no_bit(mixer_family: str, norm: str | None) -> None:
    """Outputs, gradients and buffers: the repeated forward pass must not count a batch twice in running statistics."""
    plain = create_model(f"{mixer_family}_nano", num_classes=5, norm=norm).train()
    thrifty = copy.deepcopy(plain)
    thrifty.set_grad_checkpointing()
    image = torch.randn(4, 3, 64, 64)
    outputs = []
    for model in (plain, thrifty):
        for _ in range(2):
            model.zero_grad()
            out = model(image)
            out.square().mean().backward()
        outputs.append(out)
    assert torch.equal(*outputs)
    for a, b in zip(plain.parameters(), thrifty.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for (name, a), (_, b) in zip(plain.named_buffers(), thrifty.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("traced", [64, 224])
@pytest.mark.filterwarnings("ignore")
def test_a_trace_is_right_at_other_sizes(name: str, traced: int) -> None:
    """At 64 pixels one window covers the last maps and nothing is shifted there; at 224 two stages more are."""
    model = create_model(name, num_classes=5).eval()
    with torch.no_grad():
        trace = torch.jit.trace(model, torch.randn(1, 3, traced, traced), check_trace=False)
        for size in ((64, 64), (130, 97), (224, 160)):
            image = torch.randn(2, 3, *size)
            torch.testing.assert_close(trace(image), model(image))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shared", [False, True])
def test_a_trace_of_weights_bound_to_a_size_refuses_another(shared: bool) -> None:
    model = create_model("swin_nano", mixer="static_window", mixer_args={"share_windows": shared}, img_size=64).eval()
    with torch.no_grad():
        trace = torch.jit.trace(model, torch.randn(1, 3, 64, 64), check_trace=False)
        assert trace(torch.randn(2, 3, 64, 64)).shape == (2, 1000)
        with pytest.raises(RuntimeError, match="must match the existing size"):
            trace(torch.randn(1, 3, 128, 128))


@pytest.mark.parametrize("make", [create_model, timm.create_model])
def test_pooling_is_obeyed_or_refused(make) -> None:
    model, image = make("dw_conv_nano", num_classes=0, global_pool="").eval(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model(image), model.forward_features(image)) and model(image).shape == (1, 2, 3, 256)
        model.reset_classifier(0, "avg")
        assert torch.equal(model(image), model.forward_features(image).mean((1, 2)))
    for wrong in ("max", "catavgmax"):
        with pytest.raises(UserError, match=f"global_pool: '{wrong}' is not known"):
            model.reset_classifier(5, wrong)
        with pytest.raises(UserError, match=f"global_pool: '{wrong}' is not known"):
            make("dw_conv_nano", global_pool=wrong)
