"""Entry points of ``torch.hub.load(REPO, NAME)``: one for each model of the zoo, without pretrained weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

from models import create_model, list_models

dependencies = ["torch", "timm", "pydantic", "safetensors"]


def _entry(name: str) -> Callable[..., Any]:
    entry = partial(create_model, name)
    entry.__doc__ = f"{name}; keyword arguments are constructor arguments of models.backbone.LocalNet."
    return entry


globals().update({name: _entry(name) for name in list_models()})
