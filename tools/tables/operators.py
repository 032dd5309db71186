"""The rows of Table 1 as measured on the operators themselves."""

from functools import cache

from engine.errors import ConfigError
from models.theory.catalog import Setting, find_layer
from models.theory.table import measure_layer, row


@cache
def measured_properties(operator: str) -> dict[str, str]:
    """The cells of an operator's row, from its connection matrix at a small size.

    Raises:
        ConfigError: there is no such operator.
    """
    try:
        layer = find_layer(operator, {})
    except ValueError as error:
        raise ConfigError(f"operator: {error}") from None
    return row(measure_layer(layer, Setting()).properties)
