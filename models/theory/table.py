"""Table 1 as measured: properties in the words of the paper's columns."""

from dataclasses import replace

from ..errors import UserError
from ..mixers.base import Properties
from .catalog import Layer, Setting
from .examine import Measurement
from .measure import measure

COLUMNS = {
    "positions": "sparse between positions",
    "channels": "sparse between channels",
    "share_positions": "shared across positions",
    "share_channels": "shared across channels",
    "dynamic": "dynamic weight",
}
_POSITIONS = {"local window": "local window", "all": "-", "only itself": "full"}
_SHARED_POSITIONS = {"yes": "yes", "no": "-", "between windows": "between windows"}
_SHARED_CHANNELS = {"all": "yes", "groups": "per group", "no": "-"}


def row(properties: Properties) -> dict[str, str]:
    """The cells of a row of Table 1, "-" where the paper has no mark."""
    return {
        "positions": _POSITIONS[properties.positions],
        "channels": "-" if properties.channels_connected else "yes",
        "share_positions": _SHARED_POSITIONS[properties.shared_positions],
        "share_channels": _SHARED_CHANNELS[properties.shared_channels],
        "dynamic": "yes" if properties.dynamic else "-",
    }


def scaled(layer: Layer, setting: Setting) -> Setting:
    """The setting with the larger map that a layer needs, and fewer channels, so that the matrix grows little."""
    factor = layer.size_factor
    if factor == 1:
        return setting
    size = (setting.size[0] * factor, setting.size[1] * factor)
    return replace(setting, size=size, channels=max(4, setting.channels // factor))


def declared(layer: Layer, setting: Setting) -> Properties:
    """What the layer built in a setting says of itself.

    Raises:
        UserError: it says nothing.
    """
    built = layer.build(scaled(layer, setting))
    properties = getattr(built, "properties", None)
    if not isinstance(properties, Properties):
        raise UserError(f"{type(built).__name__}: declares no properties (see models/mixers/base.py)")
    return properties


def measure_layer(layer: Layer, setting: Setting, *, seed: int = 0) -> Measurement:
    """Build a layer of the catalogue in a setting and measure it."""
    setting = scaled(layer, setting)
    return measure(layer.build(setting), setting.size, setting.channels, seed=seed)
