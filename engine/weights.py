"""The weight files ``last.safetensors`` and ``best.safetensors``: a state dict, with what made it as metadata."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open

from engine.files import write_atomic


def save_weights(path: Path, state: dict[str, torch.Tensor], about: dict[str, Any]) -> str:
    """Write a state dict; the same weights and metadata always give the same bytes.

    Args:
        about: plain values, saved as JSON texts (the model config, step, epoch, accuracy).

    Returns:
        The SHA-256 of the file.

    Raises:
        OSError: it could not be written; an older file of the name is intact.
    """
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    metadata = {key: json.dumps(value, sort_keys=True) for key, value in sorted(about.items())}
    data = safetensors.torch.save(tensors, metadata=metadata)
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_about(path: Path) -> dict[str, Any]:
    """The metadata of a weight file of ours; empty for files of others."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    about = {}
    for key, text in metadata.items():
        try:
            about[key] = json.loads(text)
        except json.JSONDecodeError:
            about[key] = text
    return about


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
