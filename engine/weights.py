"""The weight files ``last.safetensors`` and ``best.safetensors``: a state dict, with what made it as metadata."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from engine.files import write_atomic
from models.checkpoint import classifier_names

ABOUT = "about"


def save_weights(path: Path, state: dict[str, torch.Tensor], about: dict[str, object]) -> None:
    """Write a state dict; the same weights and metadata always give the same bytes.

    Args:
        about: plain values, saved as one JSON text (the model config, step, epoch, accuracy).

    Raises:
        OSError: it could not be written; an older file of the name is intact.
    """
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    # One key only: the library writes several in an order that changes from process to process.
    data = safetensors.torch.save(tensors, metadata={ABOUT: json.dumps(about, sort_keys=True)})
    write_atomic(path, data)


def read_about(path: Path) -> dict[str, Any]:
    """What :func:`save_weights` was told about the weights in a file; empty for files of others."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(ABOUT)
    except (SafetensorError, OSError):
        return {}  # whoever reads the weights says what is wrong with the file
    return {} if text is None else json.loads(text)


def read_classes(path: Path) -> list[str] | None:
    """The names of the classes that the weights in a file were trained with, in the order of the outputs; None where
    the file has none, as those of others.
    """
    names = read_about(path).get("classes")
    return None if names is None else [str(name) for name in names]


def head_by_name(
    model: nn.Module, state: dict[str, torch.Tensor], kept: list[str] | None, wanted: list[str]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Order a classifier's rows as another list of classes has them; what the weights do not know starts as in
    ``model``.

    Args:
        kept: the classes of the weights, None where nothing names them: the classifier is taken as it is.

    Returns:
        The weights, and lines on what was done.
    """
    heads = [name for name in classifier_names(model) if f"{name}.weight" in state]
    head = " and ".join(heads)
    if not heads or kept == wanted:
        return state, []
    rows = {len(state[f"{name}.weight"]) for name in heads}
    if kept is None:
        same = rows == {len(wanted)}
        return state, [f"the weights name no classes: {head} is taken in the order of the data's"] if same else []
    if rows != {len(kept)}:
        return state, []
    number = {name: row for row, name in enumerate(kept)}
    pairs = [(row, number[name]) for row, name in enumerate(wanted) if name in number]
    state, own = dict(state), model.state_dict()
    for key in (f"{name}.{part}" for name in heads for part in ("weight", "bias")):
        anew = own[key].clone()
        for row, source in pairs:
            anew[row] = state[key][source]
        state[key] = anew
    return state, [
        f"{head}: {len(pairs)} of {len(wanted)} classes are those of the weights, by name; the others start anew"
    ]


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
