"""What every mixer of the folder `models/mixers` must be able to do; a new file there is tested without a word here,
unless it refuses another window.
"""

import copy
import re

import pytest
import torch
from mixer_case import MixerCase
from torch import Tensor, nn

import models
from models.checkpoint import convert_state, load_pretrained
from models.cost import DENSE, model_cost, paper_macs
from models.errors import UserError
from models.mixers import list_mixers, mixer_class
from models.theory.measure import generic_copy, measure

# Mixers whose weights are refused in a network of another window; all others, new ones too, must resize theirs.
BOUND_TO_THEIR_WINDOW = (
    "conv_attention_inhomogeneous",
    "conv_attention_relative_position",
    "conv_attention_static_dynamic",
    "static_window",
)
SIZES = [(6, 6), (7, 5), (2, 9), (1, 1)]


def generic(mixer: nn.Module) -> nn.Module:
    """The mixer with random parameters in float64: a coincidence of the initialisation must not hide a fault."""
    return generic_copy(mixer, torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize("shifted", [False, True], ids=["", "shifted"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_it_computes_is_its_definition(mixer_case: MixerCase, size: tuple[int, int], shifted: bool) -> None:
    """``forward`` against the sum of equation 4, on maps that are no multiple of the window, too."""
    mixer = generic(mixer_case.build(size, shifted=shifted))
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), mixer.definition(x), rtol=1e-10, atol=1e-12)


def test_the_definition_is_equation_4_written_as_a_loop(mixer_case: MixerCase) -> None:
    size, dim = (5, 4), 8
    mixer = generic(mixer_case.build(size))
    x = torch.randn(1, *size, dim, dtype=torch.float64)
    with torch.no_grad():
        framed = mixer.frame(x)
        values, weights = mixer.values(framed), mixer.local_weights(framed)
        assert weights.shift == (0, 0)
        summed = naive_sum(values, weights.weight)
        torch.testing.assert_close(mixer.output(summed)[:, : size[0], : size[1]], mixer(x), rtol=1e-10, atol=1e-12)


def naive_sum(values: Tensor, weight: Tensor) -> Tensor:
    _, height, width, dim = values.shape
    groups, side = weight.shape[-3], weight.shape[-1]
    before = (side - 1) // 2
    y = torch.zeros_like(values)
    for row in range(height):
        for column in range(width):
            own = weight[0, row, column] if weight.dim() == 6 else weight.reshape(-1, groups, side, side)[0]
            for down in range(side):
                for across in range(side):
                    r, c = row + down - before, column + across - before
                    if 0 <= r < height and 0 <= c < width:
                        factor = own[:, down, across].repeat_interleave(dim // groups)
                        y[0, row, column] += factor * values[0, r, c]
    return y


def test_what_it_declares_is_measured(mixer_case: MixerCase) -> None:
    assert measure(mixer_case.build(), (6, 6), 8).properties == mixer_case.properties


def test_gradients_are_those_of_finite_differences(mixer_case: MixerCase) -> None:
    mixer = generic(mixer_case.build((3, 4)))
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, (x,), atol=1e-6, fast_mode=True)


def test_every_parameter_is_trained(mixer_case: MixerCase) -> None:
    mixer = mixer_case.build().train()
    mixer(torch.randn(4, 6, 6, 8)).square().sum().backward()
    assert [name for name, p in mixer.named_parameters() if p.grad is None] == []


def test_a_network_around_it_keeps_its_logits_when_fused(mixer_case: MixerCase) -> None:
    net = mixer_case.network()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = net.eval()(image)
        torch.testing.assert_close(models.fuse(net)(image), expected, rtol=1e-3, atol=1e-4)


def test_a_network_around_it_is_exported(mixer_case: MixerCase) -> None:
    net = mixer_case.network(depths=(1, 1), num_heads=(2, 2)).eval()
    image = torch.randn(2, 3, 64, 64)
    exported = torch.export.export(net, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), net(image), rtol=1e-4, atol=1e-5)


def test_its_sum_is_counted_by_the_papers_counter(mixer_case: MixerCase) -> None:
    """As dense prediction counts: at least a multiply-add for each input that the connection matrix shows."""
    size = (6, 6)
    mixer = mixer_case.build(size)
    products = int((measure(mixer, size, 8).matrix.abs() > 1e-14).sum())
    with torch.device("meta"):
        meta = mixer_case.build(size)
    assert paper_macs(meta, torch.empty(1, *size, 8, device="meta"), rules=DENSE) >= products


def test_a_network_around_it_is_counted_by_both_counters(mixer_case: MixerCase) -> None:
    with torch.device("meta"):
        net = mixer_case.network()
    ours, papers = (model_cost(net, (64, 64), counter=counter) for counter in ("torch", "paper"))
    assert ours.params == papers.params == sum(p.numel() for p in net.parameters())
    # The two rules differ in norms, activations and biases, which are a few per cent of a model.
    assert papers.macs == pytest.approx(ours.macs + ours.aggregation, rel=0.25)


def test_weights_travel(mixer_case: MixerCase) -> None:
    """A state dict loads into a copy, and into a network of another window after the mixer has resized it."""
    net = mixer_case.network()
    other = copy.deepcopy(net)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    load_pretrained(other, convert_state(net.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    wider = mixer_case.network(window_size=9)
    if mixer_case.key in BOUND_TO_THEIR_WINDOW:
        with pytest.raises(UserError, match=r"mixer\..*: shape"):
            load_pretrained(wider, net.state_dict())
        return
    load_pretrained(wider, net.state_dict())
    assert wider(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_foreign_names_mean_one_thing() -> None:
    meanings: dict[str, str] = {}
    for name in list_mixers():
        for pattern, replacement in mixer_class(name).foreign_names:
            re.compile(pattern)
            assert meanings.setdefault(pattern, replacement) == replacement, f"{name}: {pattern}"


@pytest.mark.dense
def test_it_is_a_dense_backbone(mixer_case: MixerCase) -> None:
    from models.mm import ZooBackbone

    options = {"mixer": mixer_case.mixer, "mixer_args": mixer_case.variant.options_for(2), "num_heads": (2, 2, 2, 2)}
    net = ZooBackbone("dw_conv_nano", img_size=64, **options).eval()
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 64, 64))
    assert [tuple(each.shape[1:]) for each in maps] == [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
