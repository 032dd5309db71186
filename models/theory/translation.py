"""Equivalence to translation (Appendix C): how far a layer's answer to a moved map is from its moved answer."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

EXACT = 1e-9
"""Relative error below which two answers are the same (float64)."""

DIRECTIONS = ((1, 0), (0, 1), (1, 1))


def translation_errors(
    layer: Callable[[Tensor], Tensor], x: Tensor, shifts: Sequence[int], *, margin: int, stride: int = 1
) -> dict[int, float]:
    """Relative error ``|f(T x) - T f(x)| / |T f(x)|`` for each shift: the largest of down, across, and both by as much.

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
            rows, columns = (slice(margin + shift, length - margin) for length in still.shape[1:3])
            for length, inner in zip(still.shape[1:3], (rows, columns), strict=True):
                if inner.start >= inner.stop:
                    raise ValueError(f"a map of {length} is too small for shift {shift} and margin {margin}")
            errors[shift] = 0.0
            for down, across in DIRECTIONS:
                moved = layer(torch.roll(x, (down * shift * stride, across * shift * stride), (1, 2)))
                expected = torch.roll(still, (down * shift, across * shift), (1, 2))[:, rows, columns]
                error = float((moved[:, rows, columns] - expected).norm() / expected.norm())
                errors[shift] = max(errors[shift], error)
    return errors


def translation_kind(errors: Mapping[int, float], window: int) -> str:
    """ "any" translation, those by whole "blocks" of the window, by another step (its number), or "none"."""
    exact = {shift for shift, error in errors.items() if error < EXACT}
    if exact == set(errors):
        return "any"
    for step in sorted(exact - {0}):
        if exact == {shift for shift in errors if shift % step == 0}:
            return "blocks" if step == window else str(step)
    return "none"
