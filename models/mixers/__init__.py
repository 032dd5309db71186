"""Token mixers, one file per operator, looked up by name."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from ..errors import UserError, hint
from .base import BlockInfo, Mixer, Properties

_MIXERS: dict[str, type[Mixer]] = {}


def register_mixer(name: str) -> Callable[[type[Mixer]], type[Mixer]]:
    """Make a mixer class known under ``name`` (the value of ``model.mixer`` in a config)."""

    def add(cls: type[Mixer]) -> type[Mixer]:
        if name in _MIXERS:
            raise UserError(f"mixer {name!r} is registered twice")
        _MIXERS[name] = cls
        return cls

    return add


def list_mixers() -> list[str]:
    """Names of all registered mixers, sorted."""
    return sorted(_MIXERS)


def mixer_class(name: str) -> type[Mixer]:
    """The class registered as ``name``; ValueError names the nearest one."""
    if name not in _MIXERS:
        raise UserError(f"mixer: {name!r} is not known; {hint(name, _MIXERS)}")
    return _MIXERS[name]


def mixer_options(name: str) -> dict[str, Parameter]:
    """The keyword options of a mixer, by name, as its constructor declares them."""
    parameters = signature(mixer_class(name)).parameters
    return {key: value for key, value in parameters.items() if value.kind is Parameter.KEYWORD_ONLY}


def build_mixer(name: str, info: BlockInfo, *, window_size: int, **options: Any) -> Mixer:
    """Build the mixer ``name`` for a place in the pyramid; ValueError names an option that it does not have."""
    cls, known = mixer_class(name), mixer_options(name)
    for key in options:
        if key not in known:
            raise UserError(f"mixer_args.{key}: mixer {name!r} has no such option; {hint(key, known)}")
    return cls(info, window_size=window_size, **options)


# Importing the operator files fills the registry.
from . import (  # noqa: E402
    conv_attention,
    d_dw_conv,
    dw_conv,
    i_dynamic,
    static_window,
    window_attention,
)

__all__ = [
    "BlockInfo",
    "Mixer",
    "Properties",
    "build_mixer",
    "conv_attention",
    "d_dw_conv",
    "dw_conv",
    "i_dynamic",
    "list_mixers",
    "mixer_class",
    "mixer_options",
    "register_mixer",
    "static_window",
    "window_attention",
]
