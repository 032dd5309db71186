"""What a config may say: every key with its type, default and meaning, read from the schema that checks it."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from engine.config import child
from models.errors import UserError, hint

BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
    "multipleOf": "multiple of",
}
NAMES = {"string": "text", "boolean": "true or false", "object": "mapping", "null": "null", "array": "list"}


def text_of(model: type[BaseModel], section: str | None = None) -> str:
    """A paragraph for each key of a schema, or of one section such as ``train`` or ``data.augment``.

    Raises:
        UserError: there is no such section; names the nearest.
    """
    keys = list(walk(model))
    if section is not None:
        sections = dict.fromkeys(key.rpartition(".")[0] for key, _, _ in keys if "." in key)
        if section not in sections:
            raise UserError(f"{section}: no such section; {hint(section, sections)}")
        keys = [entry for entry in keys if entry[0].startswith(f"{section}.")]
    return "\n".join(
        f"{key}: {kind(schema)}; {default(schema, needed)}\n    {sentence(schema)}" for key, schema, needed in keys
    )


def walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Each key in order, with its part of the JSON schema and whether it must be given; sections are entered."""
    whole = model.model_json_schema()
    for name, schema in whole["properties"].items():
        inner = child(model, name)
        if inner is None:
            yield prefix + name, schema, name in whole.get("required", ())
        else:
            listed = schema.get("type") == "array"
            yield from walk(inner, f"{prefix}{name}{'[]' if listed else ''}.")


def kind(schema: dict[str, Any]) -> str:
    """The values that a key takes, in words."""
    if "anyOf" in schema:
        return " or ".join(kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return f"'{schema['const']}'"
    bounds = [f"{word} {schema[key]}" for key, word in BOUNDS.items() if key in schema]
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {kind(schema['prefixItems'][0])}"
    if "items" in schema:
        return f"list of {kind(schema['items'])}"
    if "pattern" in schema:
        bounds.append(f"matching {schema['pattern']}")
    return " ".join([NAMES.get(schema.get("type", ""), schema.get("type", "any value")), *bounds])


def default(schema: dict[str, Any], needed: bool) -> str:
    """What holds where a key is not given."""
    if needed:
        return "must be given"
    return f"default {json.dumps(schema['default'])}" if "default" in schema else "default: empty"


def sentence(schema: dict[str, Any]) -> str:
    """The description of a key on one line."""
    return " ".join(schema["description"].split())
