"""The base of the tools' typed files."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """No unknown keys, no conversion from one type to another, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
