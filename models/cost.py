"""Parameters and multiply-adds of a model, by torch's counter and by the paper's.

The torch counter is half of what ``torch.utils.flop_counter`` reports. The paper counted by hooks on modules: a
convolution is its MACs plus its bias, a linear layer its MACs, and so on; the rules below reproduce every figure that
it prints, for classification (Tables 2 to 13) and for dense prediction (Tables 3 and 11).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .errors import UserError
from .layers import CenteringBatchNorm2d, DepthwiseConv, GlobalAvgPool
from .mixers.conv_attention import ConvAttention, WindowWeights
from .mixers.d_dw_conv import DynamicDepthwiseConv
from .mixers.i_dynamic import InhomogeneousConv
from .mixers.static_window import StaticWindow
from .mixers.window_attention import WindowAttention


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
    return output.numel() * module.in_features


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


@paper_rule(DynamicDepthwiseConv)
def _dynamic(module: DynamicDepthwiseConv, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return output.numel() * (module.generator.kernel_size**2 + 1)


@paper_rule(InhomogeneousConv)
def _inhomogeneous(module: InhomogeneousConv, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    """The generator's last convolution, which runs inside the operator, and the sum where it counts."""
    expand = module.generator.expand
    positions = output.shape[:3].numel()
    return positions * expand.out_channels * (expand.in_channels + 1) + rules.aggregation * _aggregation(module, output)


def _aggregation(module: InhomogeneousConv, output: Tensor) -> int:
    return output.numel() * module.generator.kernel_size**2


@paper_rule(WindowAttention)
def _attention(module: WindowAttention, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    """The two products and the softmax, over the padded windows."""
    n = module.window_size**2
    tokens = _padded_tokens(module.window_size, output)
    return 2 * tokens * n * output.shape[-1] + rules.softmax * tokens * n * module.num_heads


@paper_rule(StaticWindow)
def _static(module: StaticWindow, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    return _padded_tokens(module.window_size, output) * module.window_size**2 * output.shape[-1]


@paper_rule(WindowWeights)
def _window_weights(module: WindowWeights, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    """Softmax, products of query and key, convolution over the offsets; the projections are counted by themselves."""
    count = rules.softmax * module.softmax + 9 * (module.post is not None)
    products = inputs[0].numel() * module.kernel_size**2 if module.qk is not None else 0
    return count * output.numel() + products


@paper_rule(ConvAttention)
def _conv_attention(module: ConvAttention, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    """The sum over the window, as for window attention."""
    return output.numel() * module.weights.kernel_size**2


def _padded_tokens(window: int, output: Tensor) -> int:
    batch, height, width = output.shape[:3]
    return batch * (-(-height // window) * window) * (-(-width // window) * window)


def paper_macs(model: nn.Module, *inputs: Any, rules: Rules = CLASSIFICATION) -> int:
    """Run ``model(*inputs)`` once and add up what the paper's counter counts; meta tensors do."""
    total = 0

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        total += _rule_of(module)(module, args, output, rules)  # type: ignore[misc]

    handles = [module.register_forward_hook(count) for module in model.modules() if _rule_of(module)]
    try:
        _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return total


def torch_macs(model: nn.Module, *inputs: Any) -> tuple[int, int]:
    """Run ``model(*inputs)`` once under torch's counter: (MACs without, MACs of I-Dynamic's aggregation)."""
    aggregation = 0

    def count(module: InhomogeneousConv, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal aggregation
        aggregation += _aggregation(module, output)

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, InhomogeneousConv)]
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() // 2 - aggregation, aggregation


def model_cost(model: nn.Module, img_size: tuple[int, int] = (224, 224), *, counter: str = "torch") -> Cost:
    """Cost of one image of ``img_size`` (height, width) pixels by ``counter``, "torch" or "paper".

    The model is counted on the meta device wherever it lies: torch's counter knows the attention of meta tensors and
    GPUs, and silently leaves out that of CPUs.
    """
    image = torch.empty(1, getattr(model, "in_chans", 3), *img_size, device="meta")
    params = sum(parameter.numel() for parameter in model.parameters())
    model = _without_values(model)
    if counter == "paper":
        return Cost(params, paper_macs(model, image))
    if counter != "torch":
        raise UserError(f"counter: {counter!r} is not known (one of: torch, paper)")
    return Cost(params, *torch_macs(model, image))


def _without_values(model: nn.Module) -> nn.Module:
    """A copy of the model on the meta device; its weights are not copied."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _rule_of(module: nn.Module) -> Rule | None:
    return next((PAPER_RULES[kind] for kind in type(module).__mro__ if kind in PAPER_RULES), None)


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    training = model.training
    with torch.no_grad():
        model.eval()(*inputs)
    model.train(training)
