"""The relation graph of Figures 2 and 4, derived from declared properties alone.

A cell holds the layers that agree in sparse connectivity, dynamic weight and rank. An arrow joins two cells that differ
in exactly one of them, towards the more regular or the dynamic one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..mixers.base import Properties
from .catalog import Layer, Setting
from .table import declared

POSITIONS = ("all", "local window", "only itself")


@dataclass(frozen=True, order=True)
class Cell:
    """What the arrows of Figure 4 tell apart."""

    positions: str
    channels_connected: bool
    dynamic: bool
    low_rank: bool

    @classmethod
    def of(cls, properties: Properties) -> "Cell":
        return cls(
            positions=properties.positions,
            channels_connected=properties.channels_connected,
            dynamic=properties.dynamic,
            low_rank=properties.low_rank,
        )


@dataclass(frozen=True)
class Arrow:
    """A change of one property; ``change`` says which."""

    source: Cell
    target: Cell
    change: str


@dataclass(frozen=True)
class Graph:
    """Names of the layers in each cell with their declared properties, and the arrows between cells."""

    cells: dict[Cell, dict[str, Properties]]
    arrows: list[Arrow]


def relation_graph(layers: Mapping[str, Layer], setting: Setting) -> Graph:
    """The graph of the layers that have a name in Figure 4."""
    cells: dict[Cell, dict[str, Properties]] = {}
    for layer in layers.values():
        if layer.figure:
            properties = declared(layer, setting)
            cells.setdefault(Cell.of(properties), {})[layer.figure] = properties
    arrows = [
        Arrow(source, target, change)
        for source in cells
        for target in cells
        if (change := change_between(source, target)) is not None
    ]
    return Graph(cells, arrows)


def change_between(source: Cell, target: Cell) -> str | None:
    """The one step from a cell to another, in the paper's words; None where they differ in more or the step is back."""
    steps = []
    if source.positions != target.positions:
        near = POSITIONS.index(target.positions) - POSITIONS.index(source.positions) == 1
        steps.append(f"positions: {target.positions}" if near else None)
    if source.channels_connected != target.channels_connected:
        steps.append("channels: separable" if source.channels_connected else None)
    if source.dynamic != target.dynamic:
        steps.append("dynamic weight" if target.dynamic else None)
    if source.low_rank != target.low_rank:
        steps.append("low rank" if target.low_rank else None)
    return steps[0] if len(steps) == 1 else None
