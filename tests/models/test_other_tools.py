"""What tools of others see in the models: FLOP counters, hooks, adapters, int8; and weights of convolutions."""

import copy

import ptflops
import pytest
import torch
from torch import Tensor, nn

import models
from models.checkpoint import load_pretrained
from models.cost import model_cost
from models.zoo import FAMILIES

NANO = [f"{family}_nano" for family in FAMILIES]


@pytest.mark.parametrize("family", FAMILIES)
def test_ptflops_counts_what_model_cost_counts(family: str) -> None:
    """By the operators that run; it knows none of ours, so convolutions and products run in their place."""
    model = models.create_model(f"{family}_tiny").eval()
    options = {"as_strings": False, "print_per_layer_stat": False, "verbose": False, "backend": "aten"}
    macs, params = ptflops.get_model_complexity_info(model, (3, 64, 64), **options)
    cost = model_cost(model, (64, 64))
    assert macs == pytest.approx(cost.macs, rel=0.01) and params == cost.params


def test_what_runs_for_a_counter_is_what_runs_without() -> None:
    image = torch.randn(2, 3, 64, 64)
    for name in NANO:
        model = models.create_model(name, num_classes=5).eval()
        with torch.no_grad():
            with _Watching():
                watched = model(image)
            torch.testing.assert_close(watched, model(image))


class _Watching(torch.utils._python_dispatch.TorchDispatchMode):
    """A mode of another project: it lets everything through."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("fused", [False, True])
def test_hooks_on_every_linear_layer_fire_and_see_its_values(name: str, fused: bool) -> None:
    torch.manual_seed(3)
    model = models.create_model(name, num_classes=5).eval()
    model = models.fuse(model) if fused else model
    layers = {key: layer for key, layer in model.named_modules() if type(layer) is nn.Linear}
    image, seen = torch.randn(1, 3, 64, 64), set()
    with torch.no_grad():
        alone = model(image)

    def check(key: str, layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.add(key)
        torch.testing.assert_close(output, nn.functional.linear(inputs[0], layer.weight, layer.bias))

    for key, layer in layers.items():
        layer.register_forward_hook(lambda layer, inputs, output, key=key: check(key, layer, inputs, output))
    with torch.no_grad():
        torch.testing.assert_close(model(image), alone)
    assert seen == set(layers)


class Adapter(nn.Module):
    """A low-rank adapter as LoRA tools put it in a linear layer's place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", NANO)
def test_adapters_in_place_of_linear_layers_are_used(name: str) -> None:
    model = models.create_model(name, num_classes=5).eval()
    image = torch.randn(1, 3, 64, 64)
    merged = copy.deepcopy(model)
    for key, layer in list(model.named_modules()):
        if type(layer) is nn.Linear:
            adapter = Adapter(layer)
            parent, _, last = key.rpartition(".")
            setattr(model.get_submodule(parent) if parent else model, last, adapter)
            merged.get_submodule(key).weight.data += adapter.up.weight @ adapter.down.weight
    model(image).sum().backward()
    assert all(m.up.weight.grad is not None for m in model.modules() if isinstance(m, Adapter))
    with torch.no_grad():
        torch.testing.assert_close(model(image), merged(image), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("fused", [False, True])
def test_int8_replaces_every_linear_layer(name: str, fused: bool) -> None:
    torch.manual_seed(5)
    model = models.create_model(name, num_classes=5).eval()
    model = models.fuse(model) if fused else model
    count = sum(type(layer) is nn.Linear for layer in model.modules())
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    kind = torch.ao.nn.quantized.dynamic.Linear
    assert count > 20 and sum(type(layer) is kind for layer in small.modules()) == count
    image = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        exact, near = model(image), small(image)
    assert (near - exact).norm() < 0.15 * exact.norm() and not torch.equal(near, exact)


@pytest.mark.parametrize("name", NANO)
def test_weights_of_1x1_convolutions_still_load(name: str) -> None:
    """As files before December 2026 and the authors' have them: (D, C, 1, 1)."""
    model = models.create_model(name, num_classes=5)
    places = [key for key, layer in model.named_modules() if hasattr(layer, "is_pointwise_conv")]
    assert bool(places) == (name != "swin_nano")
    old = {
        key: value[:, :, None, None] if key.removesuffix(".weight") in places else value
        for key, value in model.state_dict().items()
    }
    for load in (lambda other: other.load_state_dict(old), lambda other: load_pretrained(other, old)):
        other = models.create_model(name, num_classes=5)
        load(other)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())
