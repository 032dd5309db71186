"""Equivalence to translation (Appendix C): how far a layer's answer to a moved map is from its moved answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

EXACT = 1e-9
"""Relative error below which two answers are the same (float64)."""

Kind = Literal["any", "blocks", "none"]


def translation_errors(
    layer: Callable[[Tensor], Tensor], x: Tensor, shifts: Sequence[int], *, margin: int, stride: int = 1
) -> dict[int, float]:
    """Relative error ``|f(T x) - T f(x)| / |T f(x)|`` for each shift, down and to the right by as much.

    The map is rolled, so what leaves at one side enters at the other and an average over the map stays the same.
    Positions whose neighbourhood reaches a border before or after the move are left out, as the paper does (footnote
    10).

    Args:
        layer: maps (1, H, W, C) to (1, H / stride, W / stride, D), in evaluation mode.
        x: the map, float64.
        shifts: in positions of the output.
        margin: positions of the output from a border that are left out.
        stride: input positions for one of the output.

    Raises:
        ValueError: the map is too small for the largest shift and the margins.
    """
    with torch.no_grad():
        still = layer(x)
        errors = {}
        for shift in shifts:
            moved = layer(torch.roll(x, (shift * stride, shift * stride), (1, 2)))
            inner = slice(margin + shift, still.shape[1] - margin)
            if inner.start >= inner.stop:
                raise ValueError(f"a map of {still.shape[1]} is too small for shift {shift} and margin {margin}")
            expected = torch.roll(still, (shift, shift), (1, 2))[:, inner, inner]
            errors[shift] = float((moved[:, inner, inner] - expected).norm() / expected.norm())
    return errors


def translation_kind(errors: Mapping[int, float], window: int) -> Kind:
    """ "any" translation, those by whole "blocks" of the window, or "none" but standing still."""
    exact = {shift for shift, error in errors.items() if error < EXACT}
    if exact == set(errors):
        return "any"
    return "blocks" if exact == {shift for shift in errors if shift % window == 0} else "none"
