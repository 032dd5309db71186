"""Load a config: a YAML file, one level of ``base:``, overrides ``section.key=value``, one clear line on any fault."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from engine.errors import ConfigError, hint
from engine.schema import Config, EvalConfig, TrainConfig
from engine.yaml_values import parse_value, read_mapping

__all__ = ["Config", "ConfigError", "EvalConfig", "TrainConfig", "check_batch", "load_config", "to_dict"]

Layer = tuple[str, dict[str, Any]]  # where values come from, and the values


def load_config(path: str | Path, overrides: Sequence[str] = (), world_size: int | None = None) -> Config:
    """Read a config file and everything that changes it.

    Args:
        path: the YAML file. Its key ``base`` may name another file, relative to it, whose values it changes.
        overrides: ``section.key=value`` each, stronger than both files; the value is read as YAML.
        world_size: ranks the global batch must divide by; by default what torchrun has set, else 1.

    Raises:
        ConfigError: on one line: which file, which key, what is wrong, and the nearest valid key.
    """
    layers = _file_layers(Path(path)) + [_override_layer(text) for text in overrides]
    merged: dict[str, Any] = {}
    for _, values in layers:
        merged = _merge(merged, values)
    merged.setdefault("output", f"runs/{Path(path).stem}")
    try:
        config = Config.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(error, layers)) from None
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved config as plain YAML and JSON values."""
    return config.model_dump(mode="json")


def check_batch(config: Config, world_size: int) -> int:
    """Images of one micro-batch on one rank.

    Raises:
        ConfigError: ``train.batch_size`` does not divide by ranks and accumulation.
    """
    parts = world_size * config.train.accumulation
    batch = config.train.batch_size
    if batch % parts:
        below, above = batch // parts * parts, (batch // parts + 1) * parts
        valid = f"{below} or {above}" if below else str(above)
        raise ConfigError(
            f"train.batch_size: {batch} images do not divide by {world_size} ranks x "
            f"{config.train.accumulation} accumulated parts; the nearest valid is {valid}"
        )
    return batch // parts


def _file_layers(path: Path) -> list[Layer]:
    values = read_mapping(path)
    base = values.pop("base", None)
    if base is None:
        return [(str(path), values)]
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: must be the path of one config file")
    base_path = path.parent / base
    base_values = read_mapping(base_path)
    if "base" in base_values:
        raise ConfigError(f"{path}: base: {base_path} has a base of its own; only one level is allowed")
    return [(str(base_path), base_values), (str(path), values)]


def _override_layer(text: str) -> Layer:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"command line: '{text}' is not of the form section.key=value")
    nested: Any = parse_value(value, f"command line: {key}")
    for part in reversed(parts):
        nested = {part: nested}
    return ("command line", nested)


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``under``; mappings merge, everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _explain(error: ValidationError, layers: list[Layer]) -> str:
    """The first fault of a validation, unknown keys before the rest, on one line."""
    faults = error.errors()
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    loc = tuple(str(part) for part in fault["loc"])
    path = _present_part(loc, layers)
    source = next((s for s, values in reversed(layers) if _has(values, path)), layers[-1][0])
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"{source}: {key}: unknown key; {_nearest_key(path)}"
    if fault["type"] == "missing":
        return f"{layers[-1][0] if not path else source}: {'.'.join(loc)}: missing, and it has no default"
    message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    message = " ".join(message.split())
    return f"{source}: {key}: {message[:1].lower() + message[1:]}, not {_short(fault['input'])}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _has(values: Any, path: Sequence[str]) -> bool:
    for part in path:
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, dict) and part in values:
            values = values[part]
        else:
            return False
    return True


def _present_part(loc: tuple[str, ...], layers: list[Layer]) -> tuple[str, ...]:
    """The part of a location that the user wrote: pydantic adds names of union members, which no file holds."""
    path: tuple[str, ...] = ()
    for part in loc:
        if any(_has(values, (*path, part)) for _, values in layers):
            path = (*path, part)
    return path


def _nearest_key(path: tuple[str, ...]) -> str:
    model: type[BaseModel] | None = Config
    for part in path[:-1]:
        model = _child(model, part)
    own = list(model.model_fields) if model is not None else []
    prefix = "".join(f"{part}." for part in path[:-1])
    for key in _all_keys(Config):  # right key, wrong section
        if key.split(".")[-1] == path[-1]:
            return f"the nearest valid one is {key}"
    return hint(path[-1], own, prefix)


def _child(model: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    """The model class of a field, looked for inside unions and options."""
    if model is None or name not in model.model_fields:
        return None
    waiting = [model.model_fields[name].annotation]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        waiting.extend(get_args(kind))
    return None


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name in model.model_fields:
        keys.append(prefix + name)
        child = _child(model, name)
        if child is not None:
            keys.extend(_all_keys(child, f"{prefix}{name}."))
    return keys
