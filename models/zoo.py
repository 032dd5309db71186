"""The named models, registered with timm: three sizes of four token mixers."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from .backbone import LocalNet
from .errors import UserError, hint
from .mixers import list_mixers, mixer_class
from .released import RELEASES, released

# Section 3.1 and Table 7. Nano is the same pyramid for images of about 28 pixels, for the quickstart and tests.
SIZES: dict[str, dict[str, Any]] = {
    "nano": {"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)},
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}
_PAPERS_ORDER = ("swin", "dw_conv", "d_dw_conv", "i_dynamic")  # further families follow in the order of their mixers
FAMILIES: dict[str, str] = dict(
    sorted(
        ((family, name) for name in list_mixers() if (family := mixer_class(name).family)),
        key=lambda item: _PAPERS_ORDER.index(item[0]) if item[0] in _PAPERS_ORDER else len(_PAPERS_ORDER),
    )
)
_DEFAULT_CFG: dict[str, Any] = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 224 / 256,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "license": "mit",
}
default_cfgs: dict[str, Any] = {}  # timm looks for this name in the module of an entry point
_CLASSES: dict[str, Callable[..., nn.Module]] = {}


def register(
    name: str, cls: Callable[..., nn.Module], default_cfg: dict[str, Any] | None = None, **arguments: Any
) -> None:
    """Register a model with timm and with :func:`list_models`.

    Args:
        name: what :func:`create_model` and ``timm.create_model`` will know it by.
        cls: what builds it, a class or a function with named arguments.
        default_cfg: what differs from the zoo's entry for timm (names of the first convolution and the classifier).
        arguments: values for ``cls`` that callers override.
    """

    def build(pretrained: bool = False, **overrides: Any) -> nn.Module:
        if pretrained and not _brings_weights(overrides.get("pretrained_cfg")):
            file = str(released_file(name, overrides))
            given = overrides.get("pretrained_cfg_overlay") or {}
            overrides["pretrained_cfg_overlay"] = {**given, "file": file, "custom_load": True}
        feature_cfg = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
        merged = {**arguments, **overrides}
        return build_model_with_cfg(cls, name, pretrained, feature_cfg=feature_cfg, **merged)

    build.__name__, build.__module__ = name, __name__
    build.__doc__ = f"{cls.__name__} with {arguments}"
    release = RELEASES.get((name, "classification"))
    where = {"url": release.url, "custom_load": True} if release else {}
    default_cfgs.update(generate_default_cfgs({name: {**_DEFAULT_CFG, **where, **(default_cfg or {})}}))
    register_model(build)
    _CLASSES[name] = partial(cls, **arguments)


def _brings_weights(config: Any) -> bool:
    """Whether timm was asked for ``local-dir:FOLDER`` or ``hf-hub:REPOSITORY``, whose weights it then reads itself."""
    return isinstance(config, Mapping) and config.get("source") in ("local-dir", "hf-hub")


# The arguments that released weights adapt to, or that have no weights.
_ADAPTS = {"num_classes", "in_chans", "img_size", "window_size", "drop_rate", "drop_path_rate", "global_pool"}


def released_file(name: str, overrides: Mapping[str, Any]) -> Path:
    """The file of the released weights of a model with these overrides, fetched if need be.

    Raises:
        UserError: none were released of the model, or of what the overrides make of it; or as
            :func:`models.download.fetch`.
    """
    from .download import fetch  # it locks files, which Windows cannot; models without weights work there

    release = released(name)
    plain = defaults(name)
    for key, value in (("norm", mixer_class(plain["mixer"]).default_norm), ("mixer_args", {"window_pad": True})):
        if overrides.get(key) in (value, {}):  # another way to say the same parameters
            plain[key] = overrides[key]
    other = [key for key in plain.keys() & overrides.keys() - _ADAPTS if overrides[key] != plain[key]]
    if other:
        raise UserError(
            f"{name} with another {', '.join(sorted(other))}: no weights of such a variant were ever released, only of "
            f"the plain {name}; train it by a config (configs/ablations has the paper's)"
        )
    return fetch(release)


def weights_file(name_or_path: str | Path) -> Path:
    """A path as it stands, or, where there is no such file, the released weights of the model of that name, fetched.

    Raises:
        UserError: as :func:`released_file`, for a name of the zoo.
    """
    path = Path(name_or_path)
    return released_file(str(path), {}) if str(path) in _CLASSES and not path.is_file() else path


for _family, _mixer in FAMILIES.items():
    for _size, _arguments in SIZES.items():
        register(f"{_family}_{_size}", LocalNet, mixer=_mixer, **_arguments)


def list_models(pretrained: bool = False) -> list[str]:
    """Names that :func:`create_model` builds without a prefix, in order of registration.

    Args:
        pretrained: only those whose weights are released.
    """
    return [name for name in _CLASSES if not pretrained or (name, "classification") in RELEASES]


def create_model(name: str, *, pretrained: bool = False, **overrides: Any) -> nn.Module:
    """Build a model by name; ``overrides`` are constructor arguments (:class:`models.backbone.LocalNet`).

    ``timm:NAME`` builds a comparison model of timm. ``features_only=True`` gives the four NCHW maps at strides 4, 8,
    16, 32.

    Args:
        pretrained: load the weights that the authors, Swin or timm released, downloaded at the first use
            (:func:`models.download.fetch`). Other ``num_classes``, ``in_chans`` or ``window_size`` than theirs adapt
            them; a line of the log says how.

    Raises:
        UserError: an unknown name or override, with the nearest valid one; no weights were released or none are got.
    """
    if name.startswith("timm:"):
        if not timm.is_model(name.removeprefix("timm:")):
            raise UserError(f"model.name: timm has no model {name.removeprefix('timm:')!r}")
        try:
            return timm.create_model(name.removeprefix("timm:"), pretrained=pretrained, **overrides)
        except TypeError as error:  # timm's way to refuse an argument
            raise UserError(f"model: {name}: {error}") from None
    if name not in _CLASSES:
        raise UserError(f"model.name: {name!r} is not known; {hint(name, _CLASSES)}")
    _check_overrides(name, overrides)
    return timm.create_model(name, pretrained=pretrained, **overrides)


def defaults(name: str) -> dict[str, Any]:
    """What the named model gives to its constructor, by argument; callers override it."""
    return {key: parameter.default for key, parameter in signature(_CLASSES[name]).parameters.items()}


def takes(name: str, argument: str) -> bool:
    """Whether the constructor of a model of the zoo takes an argument."""
    return name in _CLASSES and argument in defaults(name)


def _check_overrides(name: str, overrides: dict[str, Any]) -> None:
    known = [*signature(_CLASSES[name]).parameters, "features_only", "out_indices"]
    for key in overrides:
        if key not in known:
            raise UserError(f"model.{key}: {name} has no such argument; {hint(key, known)}")
