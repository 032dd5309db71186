"""YAML read as people write it: ``1e-8`` is a number, ``on`` is a word, and a key that stands twice is an error.

PyYAML follows YAML 1.1, where ``1e-8`` is a string (no dot), ``no`` is false and ``1:30`` is ninety. The values here
follow the core schema of YAML 1.2 instead.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ConfigError, nearest


class CoreLoader(yaml.SafeLoader):
    """A safe loader with the scalar types of YAML 1.2 and without duplicate keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different.

        Raises:
            yaml.constructor.ConstructorError: a key stands twice.
        """
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep=deep)


def _resolve(tag: str, pattern: str, first: str) -> None:
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", "~nN\0")
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
        ConfigError: ``text`` is not YAML; the message begins with ``source``.
    """
    try:
        return yaml.load(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(f"{source}{where}: not valid YAML: {problem}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file is missing, unreadable, or holds something else than a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file{_nearest_file(path)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    value = parse_value(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, this is a {type(value).__name__}")
    return value


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder})"
    close = nearest(path.name, [p.name for p in folder.glob("*.y*ml")])
    return f"; the nearest is {folder / close}" if close else ""
