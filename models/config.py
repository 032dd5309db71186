"""The ``model`` section of a config: a typed schema with one field for each constructor argument of the backbone."""

import re
from inspect import cleandoc, signature
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from torch import nn

from . import zoo
from .backbone import LocalNet
from .errors import UserError, hint
from .mixers import check_options


def _argument_sentences() -> dict[str, str]:
    """What the docstring of the backbone says of each argument: lines ``name, name: text`` under ``Args:``."""
    text = cleandoc(LocalNet.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]  # none under python -OO
    entries = re.findall(r"^    (\w+(?:, \w+)*): (.+(?:\n        .+)*)", text, re.MULTILINE)
    return {name: " ".join(what.split()).rstrip(".") for names, what in entries for name in names.split(", ")}


ARGUMENTS = _argument_sentences()


class _ModelConfigBase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str = Field(description="a model of the zoo, or timm:NAME")
    num_classes: int | None = Field(
        default=1000, ge=0, description=f"{ARGUMENTS.get('num_classes')}; null: as many as the training data have"
    )
    in_chans: int = Field(default=3, ge=1, description=ARGUMENTS.get("in_chans"))
    img_size: int | tuple[int, int] = Field(default=224, description=ARGUMENTS.get("img_size"))
    pretrained: bool = Field(
        default=False, description="training starts from the released weights of the model, fetched at the first use"
    )
    grad_checkpointing: bool = Field(
        default=False, description="compute blocks again in the backward pass: less memory"
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        """YAML knows lists where the constructor takes tuples."""
        if not isinstance(values, dict):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

    @model_validator(mode="after")
    def _names_exist(self) -> "_ModelConfigBase":
        if not self.name.startswith("timm:") and self.name not in zoo.list_models():
            raise UserError(f"name: {self.name!r} is not known; {hint(self.name, zoo.list_models())}")
        mixer = getattr(self, "mixer", None)
        if mixer is not None:
            check_options(mixer, getattr(self, "mixer_args", None) or {})
        return self


def _fields() -> dict[str, Any]:
    """The constructor's other arguments; None, their default here, means "as the named model has it"."""
    hints = get_type_hints(LocalNet.__init__)
    names = [name for name in signature(LocalNet.__init__).parameters if name != "self"]
    return {
        name: (hints[name] | None, Field(default=None, description=f"{ARGUMENTS.get(name)}; null: as the model has it"))
        for name in names
        if name not in _ModelConfigBase.model_fields
    }


# Derived from the signature, so that schema and constructor cannot drift apart.
ModelConfig: Any = create_model("ModelConfig", __base__=_ModelConfigBase, **_fields())
ModelConfig.__doc__ = "Name of a model and what to change in it; every field is a constructor argument of LocalNet."


def build_model(config: Any) -> nn.Module:
    """Build the model that a :class:`ModelConfig` describes, with fresh weights: what it is, not what it has learned.

    ``pretrained`` is for whoever trains it (:func:`pretrained_file`). UserError names a field that the model cannot
    have.
    """
    if config.num_classes is None:
        raise UserError("model.num_classes: null needs training data; without them give a number, as num_classes=10")
    values = arguments_of(config)
    given = config.model_fields_set
    if "img_size" not in given and not zoo.takes(config.name, "img_size"):
        values.pop("img_size")  # many of timm's models take none
    model: Any = zoo.create_model(config.name, **values)
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    return model


def arguments_of(config: Any) -> dict[str, Any]:
    """What a :class:`ModelConfig` says to the constructor of its model."""
    return config.model_dump(exclude_none=True, exclude={"name", "pretrained", "grad_checkpointing"})


def pretrained_file(config: Any) -> Path | None:
    """The released weights that the training of a :class:`ModelConfig` starts from, fetched; None: not from any.

    Raises:
        UserError: as :func:`models.zoo.released_file`.
    """
    return zoo.released_file(config.name, arguments_of(config)) if config.pretrained else None
