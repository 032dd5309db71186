"""Parameters and multiply-adds of a model, by torch's counter and by the paper's.

The torch counter is half of what ``torch.utils.flop_counter`` reports. The paper counted by hooks on modules: a
convolution is its MACs plus its bias, a linear layer its MACs, and so on; the rules below reproduce every figure that
it prints, for classification (Tables 2 to 13) and for dense prediction (Tables 3 and 11).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .config import build_model
from .errors import UserError
from .fused import FusedDepthwise, FusedLinear
from .layers import CenteringBatchNorm2d, DepthwiseConv, GlobalAvgPool


@dataclass(frozen=True)
class Rules:
    """What the paper counted per element in one of its two settings."""

    gelu: int = 5
    softmax: int = 5
    norms: bool = True
    """Whether batch norms count (SyncBN did not, in dense prediction)."""
    aggregation: bool = False
    """Whether the sum of I-Dynamic over its window counts."""


CLASSIFICATION = Rules()
DENSE = Rules(gelu=15, norms=False, aggregation=True)


@dataclass(frozen=True)
class Cost:
    """Cost of one image. ``aggregation`` is I-Dynamic's sum over the window, counted apart and not in ``macs``."""

    params: int
    macs: int
    aggregation: int = 0


Rule = Callable[[Any, tuple[Any, ...], Any, Rules], int]
PAPER_RULES: dict[type[nn.Module], Rule] = {}


def paper_rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register how the paper's counter counts a call of these module types: (module, inputs, output, rules) to MACs."""

    def add(rule: Rule) -> Rule:
        PAPER_RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return add


@paper_rule(nn.Conv2d)
def _conv(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    taps = module.in_channels // module.groups * prod(module.kernel_size)
    return output.numel() * (taps + (module.bias is not None))


@paper_rule(nn.Linear)
def _linear(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return output.numel() * (module.in_features + (hasattr(module, "is_pointwise_conv") and module.bias is not None))


@paper_rule(nn.LayerNorm)
def _layer_norm(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return 2 * output.numel()


@paper_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
def _batch_norm(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return 2 * output.numel() if rules.norms else 0


@paper_rule(nn.ReLU)
def _relu(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return output.numel()


@paper_rule(nn.GELU)
def _gelu(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return rules.gelu * output.numel()


@paper_rule(nn.Softmax)
def _softmax(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return rules.softmax * output.numel()


@paper_rule(GlobalAvgPool, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, CenteringBatchNorm2d, SqueezeExcite)
def _pool(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return inputs[0].numel()


@paper_rule(DepthwiseConv)
def _depthwise(module: DepthwiseConv, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return output.numel() * (module.kernel_size**2 + (module.bias is not None))


def paper_macs(model: nn.Module, *inputs: Any, rules: Rules = CLASSIFICATION) -> int:
    """Run ``model(*inputs)`` once and add up what the paper's counter counts; meta tensors do."""
    with _counted(model, _rule_of, lambda m, args, output: _rule_of(m)(m, args, output, rules)) as calls:  # type: ignore[misc]
        _run(model, inputs)
    return sum(calls)


def torch_macs(model: nn.Module, *inputs: Any) -> tuple[int, int]:
    """Run ``model(*inputs)`` once under torch's counter: (MACs without, MACs of sums that are counted apart).

    A module has such a sum where it has a method ``apart_macs`` of its output: I-Dynamic, as the paper leaves it out.
    """
    counter = FlopCounterMode(display=False)
    with (
        _counted(model, lambda m: hasattr(m, "apart_macs"), lambda m, _, output: m.apart_macs(output)) as calls,
        counter,
    ):
        _run(model, inputs)
    apart = sum(calls)
    return counter.get_total_flops() // 2 - apart, apart


@contextmanager
def _counted(model: nn.Module, chosen: Callable[[Any], Any], of_call: Callable[..., int]) -> Iterator[list[int]]:
    """A list that gets ``of_call(module, inputs, output)`` of each call inside the block, of the ``chosen`` modules."""
    calls: list[int] = []

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.append(of_call(module, args, output))

    handles = [module.register_forward_hook(count) for module in model.modules() if chosen(module)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def model_cost(model: nn.Module, img_size: tuple[int, int] = (224, 224), *, counter: str = "torch") -> Cost:
    """Cost of one image of ``img_size`` (height, width) pixels by ``counter``, "torch" or "paper".

    The model is counted on the meta device wherever it lies: torch's counter knows the attention of meta tensors and
    GPUs, and silently leaves out that of CPUs.
    """
    image = torch.empty(1, _input_channels(model), *img_size, device="meta")
    params = sum(parameter.numel() for parameter in model.parameters())
    model = _without_values(model)
    if counter == "paper":
        if any(isinstance(module, FusedLinear | FusedDepthwise) for module in model.modules()):
            raise UserError("counter: the paper's is for models that are not fused; count before models.fuse")
        return Cost(params, paper_macs(model, image))
    if counter != "torch":
        raise UserError(f"counter: {counter!r} is not known (one of: torch, paper)")
    return Cost(params, *torch_macs(model, image))


def config_cost(config: Any, *, counter: str = "torch") -> Cost:
    """Cost of the model of a :class:`models.ModelConfig` at its own size, built without memory for values.

    Raises:
        UserError: names a field that the model cannot have.
    """
    size = config.img_size
    with torch.device("meta"):
        model = build_model(config)
    return model_cost(model, (size, size) if isinstance(size, int) else tuple(size), counter=counter)


def _input_channels(model: nn.Module) -> int:
    """Of its images: the model's own word, else those of the first convolution that timm's ``default_cfg`` names."""
    if hasattr(model, "in_chans"):
        return model.in_chans  # type: ignore[return-value]
    first = (getattr(model, "default_cfg", None) or {}).get("first_conv")
    names = [first] if isinstance(first, str) else list(first or [])
    found = [module for name, module in model.named_modules() if name in names]
    return getattr(found[0], "in_channels", 3) if found else 3


def _without_values(model: nn.Module) -> nn.Module:
    """The model on the meta device: a copy, whose weights are not copied, where it is elsewhere."""
    if all(value.is_meta for value in (*model.parameters(), *model.buffers())):
        return model
    memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _rule_of(module: nn.Module) -> Rule | None:
    """The module's own method ``paper_macs``, else the rule of its type."""
    own = getattr(type(module), "paper_macs", None)
    return own or next((PAPER_RULES[kind] for kind in type(module).__mro__ if kind in PAPER_RULES), None)


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    training = model.training
    with torch.no_grad():
        model.eval()(*inputs)
    model.train(training)
