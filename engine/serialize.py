"""A nested Python value as named tensors and one JSON text, and back; the form in which run state is saved.

Everything is data: nothing that is read can name code to run, unlike a pickle.
"""

import json
from typing import Any

import torch

_TENSOR, _TUPLE, _DICT = "tensor", "tuple", "dict"


def pack(value: Any) -> tuple[dict[str, torch.Tensor], str]:
    """Split ``value`` into its tensors (on the CPU, contiguous, unshared) and a JSON text that refers to them.

    Raises:
        TypeError: something inside is neither a tensor nor a plain Python value.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _pack(value, "", tensors)
    return tensors, json.dumps(tree)


def unpack(tensors: dict[str, torch.Tensor], text: str) -> Any:
    """The value that :func:`pack` was given."""
    return _unpack(json.loads(text), tensors)


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = path.removeprefix("/")
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_pack(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_TUPLE: [_pack(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, dict):
        return {_DICT: [[_key(key), _pack(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    raise TypeError(f"run state holds a {type(value).__name__} at {path}, which cannot be saved as data")


def _key(key: Any) -> str | int:
    if not isinstance(key, str | int):
        raise TypeError(f"run state holds a key of type {type(key).__name__}")
    return key


def _unpack(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    if isinstance(tree, dict):
        if _TENSOR in tree:
            return tensors[tree[_TENSOR]]
        if _TUPLE in tree:
            return tuple(_unpack(item, tensors) for item in tree[_TUPLE])
        return {key: _unpack(item, tensors) for key, item in tree[_DICT]}
    return tree
