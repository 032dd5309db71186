"""Entry points of ``torch.hub.load(REPO, NAME, pretrained=False)``: one for each model of the zoo."""

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

dependencies = ["torch", "timm", "pydantic", "safetensors"]


def _load_zoo() -> ModuleType:
    """The folder ``models`` under its installed name, for the user may have a package ``models`` of his own."""
    file = Path(__file__).resolve().parent / "models" / "__init__.py"
    for name in ("localmixer", "models"):
        loaded = sys.modules.get(name)
        if loaded is None:
            continue
        if loaded.__file__ == str(file):
            return loaded
        if name == "localmixer":
            raise ImportError(
                f"the zoo is imported already, as localmixer from {loaded.__file__}; import it by one name"
            )
    spec = spec_from_file_location("localmixer", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules["localmixer"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _entry(create_model: Callable[..., Any], name: str) -> Callable[..., Any]:
    entry = partial(create_model, name)
    entry.__doc__ = (
        f"{name}; pretrained=True loads the released weights, where there are some; other keyword arguments are "
        "constructor arguments of localmixer.backbone.LocalNet."
    )
    return entry


_zoo = _load_zoo()
globals().update({name: _entry(_zoo.create_model, name) for name in _zoo.list_models()})
