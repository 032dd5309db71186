"""Weights of a whole detector or segmentor: read without running anything, loaded without anything left over."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models.checkpoint import CheckpointError, State, convert_state

# What a checkpoint of the library holds beside tensors: its log's numbers.
_PLAIN = [HistoryBuffer, np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar]
_PLAIN += [type(np.dtype(kind)) for kind in (np.uint32, np.float32, np.float64, np.int64)]


def read_model(path: str | Path) -> tuple[State, dict[str, Any]]:
    """The weights in a checkpoint of the library, of the authors or of Swin, and its meta data (as ``dataset_meta``).

    The backbone's names become the zoo's. Pickles are opened with ``weights_only=True`` and nothing else.

    Raises:
        CheckpointError: the file is missing or cannot be read, or holds a backbone's key that no rule knows.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            state, meta = load_file(path), {}
        else:
            with torch.serialization.safe_globals(_PLAIN):
                content = torch.load(path, map_location="cpu", weights_only=True)
            state, meta = content.get("state_dict", content), content.get("meta") or {}
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read as weights ({type(error).__name__}: {reason})") from error
    head = "backbone."
    backbone = {key.removeprefix(head): value for key, value in state.items() if key.startswith(head)}
    if not backbone:
        raise CheckpointError(f"{path}: holds no backbone.*, so it is no detector or segmentor")
    rest = {key: value for key, value in state.items() if not key.startswith(head)}
    return rest | {head + key: value for key, value in convert_state(backbone).items()}, meta


def load_model(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a whole checkpoint into ``model`` and return its meta data.

    Raises:
        CheckpointError: a key is missing or left over, or has another shape.
    """
    state, meta = read_model(path)
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    parts = [
        f"{len(keys)} {what}, first {keys[0]}" for what, keys in (("missing", missing), ("left over", extra)) if keys
    ]
    parts += [
        f"{key}: shape {tuple(state[key].shape)} in the checkpoint, {tuple(own[key].shape)} in the model"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ][:1]
    if parts:
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(parts)}")
    model.load_state_dict(state)
    return meta
