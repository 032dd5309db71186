"""Parameters that training leaves as they are, chosen by stage, module or pattern."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from engine.batchnorm import is_frozen
from models.errors import UserError, hint


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Take the parameters that ``train.freeze`` names out of training.

    Args:
        patterns: each is ``stem``, a module such as ``stages.0``, or a pattern of parameter names such as ``*.bias``.

    Returns:
        A line that says how much is frozen; none without patterns.

    Raises:
        UserError: a pattern matches no parameter, or none is left to train.
    """
    parameters = dict(model.named_parameters())
    chosen: set[str] = set()
    for pattern in patterns:
        found = _matching(model, pattern, parameters)
        if not found:
            parts = {name.rsplit(".", depth)[0] for name in parameters for depth in range(name.count(".") + 1)}
            raise UserError(f"train.freeze: {pattern!r} matches no parameter; {hint(pattern, ['stem', *parts])}")
        chosen |= found
    if not chosen:
        return []
    if len(chosen) == len(parameters):
        raise UserError(f"train.freeze: {', '.join(patterns)} leave no parameter to train")
    for name in chosen:
        parameters[name].requires_grad_(False)
    frozen, whole = sum(parameters[name].numel() for name in chosen), sum(p.numel() for p in parameters.values())
    return [f"train.freeze: {frozen:,} of {whole:,} parameters stay as they are ({', '.join(patterns)})"]


def _matching(model: nn.Module, pattern: str, names: Iterable[str]) -> set[str]:
    found = {name for name in names if name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)}
    matcher: Any = getattr(model, "group_matcher", None)
    if pattern == "stem" and not found and matcher is not None:
        own = matcher(coarse=True).get("stem", ())  # timm's protocol: a regular expression, or several
        stems = [own] if isinstance(own, str) else list(own)
        found = {name for name in names if any(re.match(stem, name) for stem in stems)}
    return found


def train_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms that are frozen: their statistics stay as they are, too."""
    model.train()
    for module in model.modules():
        if is_frozen(module):
            module.eval()
