"""Figure 4: the relation graph, its boxes and arrows from declared properties, its places from what they are."""

from models.mixers.base import Properties
from models.theory.catalog import LAYERS, Setting
from models.theory.relation import Arrow, Cell, Graph, relation_graph
from tools.theory import svg

COLUMNS = ("all", "local window", "only itself")
ROWS = (  # channels connected, dynamic, low rank
    (True, False, True),
    (True, False, False),
    (False, False, False),
    (False, True, False),
    (False, True, True),
)
WIDTH, GAP_X, GAP_Y, LINE, MARGIN, TOP = 214, 118, 62, 25, 8, 40
COLORS = {"positions": svg.ACCENT, "channels": svg.THIRD, "dynamic": svg.SECOND, "low": svg.MUTED}
SHORT = {"positions: local window": "local window", "positions: only itself": "only itself"}


def sharing(properties: Properties) -> str:
    """How the weights of a layer are shared, short."""
    words = {"yes": "positions", "between windows": "windows", "no": ""}[properties.shared_positions]
    channels = {"all": "channels", "groups": "groups", "no": ""}[properties.shared_channels]
    return " + ".join(part for part in (words, channels) if part) or "nothing"


def draw_relation_graph() -> str:
    """The whole figure as SVG."""
    graph = relation_graph(LAYERS, Setting())
    tops, total = _rows(graph)
    places = {cell: _place(cell, names, tops) for cell, names in graph.cells.items()}
    shapes = [svg.arrow_heads(*COLORS.values())]
    for column, name in enumerate(COLUMNS):
        x = MARGIN + column * (WIDTH + GAP_X) + WIDTH / 2
        shapes.append(svg.text(x, 22, f"positions: {name}", size=17, color=svg.MUTED))
    shapes += [_arrow(arrow, places) for arrow in graph.arrows]
    for cell, names in graph.cells.items():
        shapes += _box(places[cell], names, cell)
    width = 2 * MARGIN + 3 * WIDTH + 2 * GAP_X
    return svg.document(width, total, shapes, "Relation graph of the layers (Figure 4)")


Place = tuple[float, float, float]  # left, top, height


def _height(names: dict[str, Properties]) -> float:
    return 2 * LINE * len(names) + 18


def _row(cell: Cell) -> int:
    return ROWS.index((cell.channels_connected, cell.dynamic, cell.low_rank))


def _rows(graph: Graph) -> tuple[list[float], float]:
    """Top of each row of boxes, and the height of the figure."""
    tops, y = [], float(TOP)
    for row in range(len(ROWS)):
        tops.append(y)
        heights = [_height(names) for cell, names in graph.cells.items() if _row(cell) == row]
        y += max(heights, default=0) + GAP_Y
    return tops, y - GAP_Y + MARGIN


def _place(cell: Cell, names: dict[str, Properties], tops: list[float]) -> Place:
    column = COLUMNS.index(cell.positions)
    return MARGIN + column * (WIDTH + GAP_X), tops[_row(cell)], _height(names)


def _box(place: Place, names: dict[str, Properties], cell: Cell) -> list[str]:
    left, top, height = place
    fill = "#fdeee5" if cell.dynamic else "#eef3f7"
    shapes = [svg.box(left, top, WIDTH, height, fill)]
    for index, (name, properties) in enumerate(names.items()):
        y = top + 2 * LINE * index + LINE
        shapes.append(svg.text(left + WIDTH / 2, y, name, size=18, bold=True))
        shapes.append(svg.text(left + WIDTH / 2, y + LINE - 2, f"shares: {sharing(properties)}", size=16))
    return shapes


def _arrow(arrow: Arrow, places: dict[Cell, Place]) -> str:
    """Between columns at the middle of the boxes, between rows from edge to edge, with the change beside it."""
    kind = next(index for index, key in enumerate(COLORS) if arrow.change.startswith(key))
    color = list(COLORS.values())[kind]
    (x1, y1, h1), (x2, y2, h2) = places[arrow.source], places[arrow.target]
    words = SHORT.get(arrow.change, arrow.change)
    head = f'marker-end="url(#head-{kind})"'
    if x1 != x2:
        y = max(y1, y2) + min(h1, h2) / 2
        label = svg.text((x1 + WIDTH + x2) / 2, y - 10, words, size=16, color=color)
        return svg.line(x1 + WIDTH, y, x2 - 2, y, color, 2.5, head) + label
    x = x1 + WIDTH / 2
    start, end = (y1 + h1, y2 - 2) if y2 > y1 else (y1, y2 + h2 + 2)
    label = svg.text(x + 10, (start + end) / 2 + 5, words, size=16, color=color, anchor="start")
    return svg.line(x, start, x, end, color, 2.5, head) + label
