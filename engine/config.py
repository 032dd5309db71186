"""YAML read as people write it: ``1e-8`` is a number, ``on`` is a word, and a key that stands twice is an error.

PyYAML follows YAML 1.1, where ``1e-8`` is a string (no dot), ``no`` is false and ``1:30`` is ninety. The values here
follow the core schema of YAML 1.2 instead.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from engine.schema import Config
from models.errors import UserError, hint, nearest


class CoreLoader(yaml.SafeLoader):
    """A safe loader with the scalar types of YAML 1.2 and without duplicate keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are texts, all different.

        Raises:
            yaml.constructor.ConstructorError: a key stands twice, or is a number or another value.
        """
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is no text; write it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _resolve(tag: str, pattern: str, first: Sequence[str]) -> None:
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", ["~", "n", "N", ""])
_resolve("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+.0123456789",
)
CoreLoader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(node.value, 16 if "x" in node.value else 10)
)


def parse_value(text: str, source: str) -> Any:
    """The value of one piece of YAML.

    Raises:
        UserError: ``text`` is not YAML; the message begins with ``source``.
    """
    try:
        return yaml.load(text, Loader=CoreLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise UserError(f"{source}: not valid YAML: nested too deeply") from None
        if isinstance(error, ValueError):  # !!float x, an integer of thousands of digits
            raise UserError(f"{source}: not valid YAML: {str(error)[:80]}") from None
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UserError(f"{source}{where}: not valid YAML: {problem}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        UserError: the file is missing, unreadable, or holds something else than a mapping.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such config file{_nearest_file(path)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    value = parse_value(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: a config is a mapping of sections, this is a {type(value).__name__}")
    return value


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder})"
    close = nearest(path.name, [p.name for p in folder.glob("*.y*ml")])
    return f"; the nearest is {folder / close}" if close else ""


Layer = tuple[str, dict[str, Any]]  # where values come from, and the values


def load_config(path: str | Path, overrides: Sequence[str] = (), world_size: int | None = None) -> Config:
    """Read a config file and everything that changes it.

    Args:
        path: the YAML file. Its key ``base`` may name another file, relative to it, whose values it changes.
        overrides: ``section.key=value`` each, stronger than both files; the value is read as YAML.
        world_size: ranks the global batch must divide by; by default what torchrun has set, else 1.

    Raises:
        UserError: on one line: which file, which key, what is wrong, and the nearest valid key.
    """
    layers = _file_layers(Path(path)) + [_override_layer(text) for text in overrides]
    merged: dict[str, Any] = {}
    for _, values in layers:
        merged = _merge(merged, values)
    merged.setdefault("output", f"runs/{Path(path).stem}")
    try:
        config = Config.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        raise UserError(_explain(error, layers)) from None
    check_batch(config, int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved config as plain YAML and JSON values."""
    return config.model_dump(mode="json")


def as_yaml(config: Config) -> str:
    """The resolved config as text that :func:`load_config` reads to the same config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def check_batch(config: Config, world_size: int) -> int:
    """Images of one micro-batch on one rank.

    Raises:
        UserError: ``train.batch_size`` does not divide by ranks and accumulation.
    """
    parts = world_size * config.train.accumulation
    batch = config.train.batch_size
    if batch % parts:
        below, above = batch // parts * parts, (batch // parts + 1) * parts
        valid = f"{below} or {above}" if below else str(above)
        raise UserError(
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
        raise UserError(f"{path}: base: must be the path of one config file")
    base_path = path.parent / base
    base_values = read_mapping(base_path)
    if "base" in base_values:
        raise UserError(f"{path}: base: {base_path} has a base of its own; only one level is allowed")
    return [(str(base_path), base_values), (str(path), values)]


def _override_layer(text: str) -> Layer:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"command line: '{text}' is not of the form section.key=value")
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
    where = f"{source}: {key}: " if key else f"{source}: "
    # A rule that joins several keys is checked on the section, whose values would fill the line.
    given = "" if isinstance(fault["input"], dict) else f", not {_short(fault['input'])}"
    return f"{where}{message[:1].lower() + message[1:]}{given}"


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
        model = child(model, part)
    own = list(model.model_fields) if model is not None else []
    prefix = "".join(f"{part}." for part in path[:-1])
    for key in _all_keys(Config):  # right key, wrong section
        if key.split(".")[-1] == path[-1]:
            return f"the nearest valid one is {key}"
    return hint(path[-1], own, prefix)


def child(model: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
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
        inner = child(model, name)
        if inner is not None:
            keys.extend(_all_keys(inner, f"{prefix}{name}."))
    return keys
