"""Token mixers, one file per operator, looked up by name.

Every file of this folder whose name does not begin with ``_`` is imported, so a new file is a new mixer.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from ..errors import UserError, hint
from .base import BlockInfo, Mixer, Properties, Variant

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
    """The class registered as ``name``; UserError names the nearest one."""
    if name not in _MIXERS:
        raise UserError(f"mixer: {name!r} is not known; {hint(name, _MIXERS)}")
    return _MIXERS[name]


def mixer_options(name: str) -> dict[str, Parameter]:
    """The keyword options of a mixer, by name, as its constructor declares them."""
    parameters = signature(mixer_class(name)).parameters
    return {key: value for key, value in parameters.items() if value.kind is Parameter.KEYWORD_ONLY}


def build_mixer(name: str, info: BlockInfo, *, window_size: int, **options: Any) -> Mixer:
    """Build the mixer ``name`` for a place in the pyramid; UserError names an option that it does not have."""
    check_options(name, options)
    return mixer_class(name)(info, window_size=window_size, **options)


def check_options(name: str, options: Iterable[str]) -> None:
    """Raise UserError for the first of ``options`` that the mixer ``name`` does not have."""
    known = mixer_options(name)
    for key in options:
        if key not in known:
            raise UserError(f"mixer_args.{key}: mixer {name!r} has no such option; {hint(key, known)}")


def mixer_variants() -> dict[str, tuple[str, Variant]]:
    """Every option set that is measured and tested: its name to the mixer and the variant."""
    found: dict[str, tuple[str, Variant]] = {}
    for name, cls in sorted(_MIXERS.items()):
        for key, variant in (cls.variants or {name: Variant(label=name)}).items():
            if key in found:
                raise ValueError(f"variant {key!r} of mixer {name!r} is one of {found[key][0]!r}, too")
            found[key] = (name, variant)
    return found


for _file in sorted(Path(__file__).parent.glob("[!_]*.py")):
    if _file.stem != "base":
        import_module(f".{_file.stem}", __name__)

__all__ = [
    "BlockInfo",
    "Mixer",
    "Properties",
    "Variant",
    "build_mixer",
    "list_mixers",
    "mixer_class",
    "mixer_options",
    "mixer_variants",
    "register_mixer",
]
