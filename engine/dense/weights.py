"""Weights of a whole detector or segmentor: read without running anything, loaded without anything left over."""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import load_file
from torch import nn

from models.checkpoint import PLAIN, State, convert_state, whose
from models.errors import UserError
from models.layers import without_window

# What a checkpoint of the library holds beside tensors: the numbers of its log.
_METHODS = ("min", "max", "current", "mean")


def _history_method(owner: Any, name: str) -> Any:
    """Stands in for ``getattr`` in the library's pickles: the statistics of its log buffers, and nothing else."""
    if owner is not HistoryBuffer or name not in _METHODS:
        raise UnpicklingError(f"getattr of {name!r}")
    return getattr(HistoryBuffer, name)


_PLAIN: list[Any] = [*PLAIN, HistoryBuffer]
_PLAIN += [(_history_method, "builtins.getattr"), (_history_method, "__builtin__.getattr")]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint as it was saved; pickles are opened with ``weights_only=True`` and nothing else.

    Raises:
        UserError: the file is missing or holds more than weights and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            return {"state_dict": load_file(path)}
        with torch.serialization.safe_globals(_PLAIN):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler of bytes that are no pickle ends in any of them
        # torch's advice on loading unsafely is of no use here; what it found is.
        found = re.search(r"(Unsupported \w+: \S+ \S+|getattr of \S+)", str(error))
        reason = found[0] if found else (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as weights ({reason})") from error
    return content if "state_dict" in content else {"state_dict": content.get("model", content)}


def read_model(path: str | Path) -> tuple[State, dict[str, Any]]:
    """The weights in a checkpoint of the library, of the authors or of Swin, and its meta data (as ``dataset_meta``).

    The backbone's names become the zoo's.

    Raises:
        UserError: as :func:`read_checkpoint`, or a key of the backbone that no rule knows.
    """
    content = read_checkpoint(path)
    state, meta = content["state_dict"], content.get("meta") or {}
    head = "backbone."
    backbone = {key.removeprefix(head): value for key, value in state.items() if key.startswith(head)}
    if not backbone:
        raise UserError(f"{path}: holds no backbone.*, so it is no detector or segmentor")
    rest = {key: value for key, value in state.items() if not key.startswith(head)}
    return rest | {head + key: value for key, value in convert_state(backbone).items()}, meta


def load_model(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a whole checkpoint into ``model`` and return its meta data.

    Raises:
        UserError: a key is missing or left over, or has another shape.
    """
    state, meta = read_model(path)
    own = model.state_dict()
    state = _as_own(state, own)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    parts = [
        f"{len(keys)} {what}, first {keys[0]}" for what, keys in (("missing", missing), ("left over", extra)) if keys
    ]
    parts += [_shapes(key, state, own) for key in _reshaped(state, own)][:1]
    if parts:
        raise UserError(f"{path} does not fit the model: {'; '.join(parts)}{_whose(state, own)}")
    model.load_state_dict(state)
    return meta


def load_start(model: nn.Module, path: str | Path) -> list[str]:
    """Start from a whole checkpoint whose heads may be others, and return a line for each kind of thing left random.

    Raises:
        UserError: the backbone does not fit whole.
    """
    state, _ = read_model(path)
    own = model.state_dict()
    state = _as_own(state, own)
    missing, extra, reshaped = own.keys() - state.keys(), state.keys() - own.keys(), _reshaped(state, own)
    for keys, what in ((missing, "is missing"), (extra, "is left over"), (reshaped, "has another shape")):
        for key in sorted(keys):
            if key.startswith("backbone."):
                raise UserError(f"load_from {path}: does not fit the backbone: {key} {what}{_whose(state, own)}")
    model.load_state_dict({key: value for key, value in state.items() if key in own and key not in reshaped}, False)
    lines = [f"stays random: {key} is not in the file" for key in sorted(missing)]
    lines += [f"stays random: {_shapes(key, state, own)}" for key in reshaped]
    lines += [f"not used: {key}" for key in sorted(extra)]
    return [f"load_from {path}: {line}" for line in lines]


def _whose(state: State, own: State) -> str:
    return whose(*({key.removeprefix("backbone."): value for key, value in each.items()} for each in (state, own)))


def _as_own(state: State, own: State) -> State:
    """Without the norms of maps that the backbone does not return; 1x1 convolutions as the linear layers they are."""
    return {
        key: without_window(value, own[key]) if key in own else value
        for key, value in state.items()
        if key in own or not re.match(r"backbone\.norm\d\.", key)
    }


def _reshaped(state: State, own: State) -> list[str]:
    return [key for key in sorted(own.keys() & state.keys()) if own[key].shape != state[key].shape]


def _shapes(key: str, state: State, own: State) -> str:
    return f"{key}: shape {tuple(state[key].shape)} in the checkpoint, {tuple(own[key].shape)} in the model"
