"""The linear map that a layer applies to its values, its weights held at what they are on one image.

The layer's own code runs. Forward hooks put back what the submodules that make the weights gave on the image, and let
the projections, norms and activations around the sum pass their input on. What is left between the values and the
output is the sum of equation 4.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.mixers.conv_attention import ConvAttention
from models.mixers.depthwise import DepthwiseMixer
from models.mixers.static_window import StaticWindow
from models.mixers.window_attention import WindowAttention
from models.theory.layers import GlobalAttention

Replacement = Callable[[Tensor, Tensor], Tensor]
"""(output on the image, input now) to the output that the rest of the layer shall see."""


def skip(recorded: Tensor, values: Tensor) -> Tensor:
    """A projection, norm or activation that is no part of the sum."""
    return values


def hold(recorded: Tensor, values: Tensor) -> Tensor:
    """Weights, or what they are made of."""
    return recorded.expand(len(values), *recorded.shape[1:])


def hold_query_and_key(recorded: Tensor, values: Tensor) -> Tensor:
    """Swin's joint projection: query and key stay those of the image, the values pass."""
    query, key, _ = recorded.expand(len(values), *recorded.shape[1:]).chunk(3, dim=-1)
    return torch.cat([query, key, values], dim=-1)


AROUND_ATTENTION: dict[str, Replacement] = {"value": skip, "proj": skip}
AROUND_DEPTHWISE: dict[str, Replacement] = dict.fromkeys(
    ("proj_in", "norm_in", "act", "norm_op", "proj_out", "norm_out"), skip
)
ANATOMY: dict[type[nn.Module], dict[str, Replacement]] = {
    DepthwiseMixer: {**AROUND_DEPTHWISE, "op.generator": hold},
    WindowAttention: {"qkv": hold_query_and_key, "proj": skip},
    StaticWindow: AROUND_ATTENTION,
    ConvAttention: {**AROUND_ATTENTION, "weights": hold},
    GlobalAttention: {**AROUND_ATTENTION, "weights": hold},
}
"""Which submodules of a layer are replaced by what; a layer without an entry is the sum itself."""


class ValueMap:
    """The map on values of ``layer`` for the image features ``x`` (1, H, W, C): call it with (B, H, W, C).

    The layer is run in evaluation mode. Its bias, if it has one, stays in the map, which is then affine.

    Raises:
        ValueError: the map is not affine, so something that makes the weights is not held.
    """

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.shape = layer, x.shape
        self.parts = _parts(layer)
        self.recorded: dict[str, Tensor] = {}
        with torch.no_grad(), _evaluating(layer), self._hooked(self._record):
            layer(x)
        self._check_affine()

    def __call__(self, values: Tensor) -> Tensor:
        with _evaluating(self.layer), self._hooked(self._replay):
            return self.layer(values)

    def _record(self, name: str, replacement: Replacement, output: Tensor, given: Tensor) -> None:
        if replacement is not skip:
            self.recorded[name] = output.detach()

    def _replay(self, name: str, replacement: Replacement, output: Tensor, given: Tensor) -> Tensor:
        return replacement(self.recorded.get(name, output), given)

    @contextmanager
    def _hooked(self, action: Callable[[str, Replacement, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
        def hook_for(name: str, replacement: Replacement) -> Callable[..., Tensor | None]:
            return lambda module, inputs, output: action(name, replacement, output, inputs[0])

        handles = [
            module.register_forward_hook(hook_for(name, replacement))
            for name, (module, replacement) in self.parts.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_affine(self) -> None:
        first, second = (torch.randn(self.shape, dtype=torch.float64).to(_like(self.layer)) for _ in range(2))
        with torch.no_grad():
            origin, one, two, both = (self(v) for v in (torch.zeros_like(first), first, second, first + second))
        error = (both + origin - one - two).abs().max()
        if error > 1e-4 * (one.abs().max() + two.abs().max()):
            kind = type(self.layer).__name__
            raise ValueError(f"{kind}: its map on the values is not linear; what makes its weights is not held")


def _parts(layer: nn.Module) -> dict[str, tuple[nn.Module, Replacement]]:
    known = next((ANATOMY[kind] for kind in type(layer).__mro__ if kind in ANATOMY), {})
    modules = dict(layer.named_modules())
    return {name: (modules[name], replacement) for name, replacement in known.items() if name in modules}


def _like(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


@contextmanager
def _evaluating(layer: nn.Module) -> Iterator[None]:
    training = layer.training
    layer.eval()
    try:
        yield
    finally:
        layer.train(training)
