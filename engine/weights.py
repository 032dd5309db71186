"""The weight files ``last.safetensors`` and ``best.safetensors``: a state dict, with what made it as metadata."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open

from engine.files import write_atomic

ABOUT = "about"


def save_weights(path: Path, state: dict[str, torch.Tensor], about: dict[str, object]) -> str:
    """Write a state dict; the same weights and metadata always give the same bytes.

    Args:
        about: plain values, saved as one JSON text (the model config, step, epoch, accuracy).

    Returns:
        The SHA-256 of the file.

    Raises:
        OSError: it could not be written; an older file of the name is intact.
    """
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    # One key only: the library writes several in an order that changes from process to process.
    data = safetensors.torch.save(tensors, metadata={ABOUT: json.dumps(about, sort_keys=True)})
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_about(path: Path) -> dict[str, Any]:
    """What :func:`save_weights` was told about the weights in a file; empty for files of others."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(ABOUT)
    return {} if text is None else json.loads(text)


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
