"""Figures 1 and 4, connection matrices and translation curves."""

import io
from dataclasses import replace

import torch
from torch import Tensor

from models.mixers.base import Properties
from models.theory.catalog import LAYERS, Setting
from models.theory.curves import SHIFTS, WINDOW, Curves
from models.theory.examine import ZERO
from models.theory.matrix import channel_by_channel
from models.theory.measure import measure
from models.theory.relation import Arrow, Cell, Graph, relation_graph
from models.theory.table import measure_layer, scaled
from tools.theory import draw
from tools.theory.draw import colored, enlarged, png, with_lines

SETTING = Setting(size=(6, 6), window=3, channels=4, heads=2)
PANELS = {
    "a": ("Convolution", ["conv"]),
    "b": ("Global attention, spatial MLP", ["attention", "channel_sep_mlp"]),
    "c": ("Local attention, depth-wise conv.", ["local_attention", "dw_conv", "d_dw_conv", "i_dynamic"]),
    "d": ("1x1 convolution", ["conv_1x1"]),
    "e": ("MLP (fully connected)", ["mlp"]),
}
"""The panels of Figure 1 and the layers that each stands for; the lines are those of the first."""

STEP_X, STEP_Y, RADIUS = 44, 30, 9
ROW, POSITION, CHANNEL = 1, 1, 1


def row_of_reach(matrix: Tensor) -> Tensor:
    """What reaches one output along its row of the map: (positions of the row, channels), true where connected."""
    height, width = SETTING.size
    weights = matrix.unflatten(0, (height, width)).unflatten(3, (height, width))
    connected = weights.abs() > ZERO * matrix.abs().max()
    return connected[ROW, POSITION, CHANNEL, ROW]


def panel(letter: str, reach: Tensor) -> str:
    """Inputs at the left, outputs at the right; lines to one output from what reaches it."""
    positions, channels = reach.shape
    gap, left, top = 96, 42, 40
    width = 2 * left + (channels - 1) * 2 * STEP_X + gap
    height = top + (positions - 1) * STEP_Y + 44
    out_left = left + (channels - 1) * STEP_X + gap
    target = (out_left + CHANNEL * STEP_X, top + POSITION * STEP_Y)
    shapes = [
        draw.text(left + 1.5 * STEP_X, 18, "input", size=14, color=draw.MUTED),
        draw.text(out_left + 1.5 * STEP_X, 18, "output", size=14, color=draw.MUTED),
        draw.text(width / 2, height - 10, "across: channels, down: positions", size=14, color=draw.MUTED),
    ]
    nodes = []
    for p in range(positions):
        for c in range(channels):
            x, y, used = left + c * STEP_X, top + p * STEP_Y, bool(reach[p, c])
            if used:
                shapes.append(draw.line(x, y, *target, draw.ACCENT, 1.4, 'opacity="0.55"'))
            nodes.append(draw.circle(x, y, RADIUS, draw.ACCENT if used else "white"))
            here = (p, c) == (POSITION, CHANNEL)
            nodes.append(draw.circle(out_left + c * STEP_X, y, RADIUS, draw.SECOND if here else "white"))
    return draw.document(width, height, shapes + nodes, f"Figure 1 {letter}: {PANELS[letter][0]}")


def connectivity_panels() -> dict[str, tuple[str, str]]:
    """{letter: (caption, SVG)}. RuntimeError where layers of one panel differ, for then the figure would be wrong."""
    panels = {}
    for letter, (caption, names) in PANELS.items():
        reaches = [row_of_reach(measure_layer(LAYERS[name], SETTING).matrix) for name in names]
        if any(not torch.equal(reach, reaches[0]) for reach in reaches):
            raise RuntimeError(f"Figure 1 {letter}: {', '.join(names)} are not connected alike")
        panels[letter] = (caption, panel(letter, reaches[0]))
    return panels


COLUMNS = ("all", "local window", "only itself")
ROWS = (  # channels connected, dynamic, low rank
    (True, False, True),
    (True, False, False),
    (False, False, False),
    (False, True, False),
    (False, True, True),
)
WIDTH, GAP_X, GAP_Y, LINE, MARGIN, TOP = 214, 118, 62, 25, 8, 40
COLORS = {"positions": draw.ACCENT, "channels": draw.THIRD, "dynamic": draw.SECOND, "low": draw.MUTED}
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
    shapes = [draw.arrow_heads(*COLORS.values())]
    for column, name in enumerate(COLUMNS):
        x = MARGIN + column * (WIDTH + GAP_X) + WIDTH / 2
        shapes.append(draw.text(x, 22, f"positions: {name}", size=17, color=draw.MUTED))
    shapes += [_arrow(arrow, places) for arrow in graph.arrows]
    for cell, names in graph.cells.items():
        shapes += _box(places[cell], names, cell)
    width = 2 * MARGIN + 3 * WIDTH + 2 * GAP_X
    return draw.document(width, total, shapes, "Relation graph of the layers (Figure 4)")


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
    shapes = [draw.box(left, top, WIDTH, height, fill)]
    for index, (name, properties) in enumerate(names.items()):
        y = top + 2 * LINE * index + LINE
        shapes.append(draw.text(left + WIDTH / 2, y, name, size=18, bold=True))
        shapes.append(draw.text(left + WIDTH / 2, y + LINE - 2, f"shares: {sharing(properties)}", size=16))
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
        label = draw.text((x1 + WIDTH + x2) / 2, y - 10, words, size=16, color=color)
        return draw.line(x1 + WIDTH, y, x2 - 2, y, color, 2.5, head) + label
    x = x1 + WIDTH / 2
    start, end = (y1 + h1, y2 - 2) if y2 > y1 else (y1, y2 + h2 + 2)
    label = draw.text(x + 10, (start + end) / 2 + 5, words, size=16, color=color, anchor="start")
    return draw.line(x, start, x, end, color, 2.5, head) + label


MATRIX_SETTING = Setting(size=(6, 6), window=3, channels=4, heads=2)
SHOWN = {
    "mlp": "eq. 7: every entry its own",
    "conv": "eq. 8, 9: a band in each block",
    "conv_1x1": "eq. 11: one diagonal a block",
    "channel_sep_mlp": "eq. 10: one block, repeated",
    "attention": "eq. 10, dynamic: a block for each head",
    "dw_conv": "eq. 13: a band for each channel",
    "d_dw_conv": "eq. 13, dynamic",
    "local_attention": "eq. 14: windows, a block for each head",
    "conv_attention_dot_product": "eq. 14, 15: sliding windows",
    "i_dynamic": "eq. 14, 15 from generated weights",
    "static_window_shared": "windows that repeat, static",
    "low_rank_mlp": "eq. 16: looks like an MLP, rank {rank} of {neurons}",
    "pyramid": "before eq. 17: repeats over 2x2 positions, rank {rank} of {neurons}",
    "multi_scale_conv": "eq. 17: two resolutions, rank {rank} of {neurons}",
}


def matrix_setting(name: str) -> Setting:
    """Where a layer's matrix is taken; a layer that pools has the larger map that it needs."""
    return scaled(LAYERS[name], replace(MATRIX_SETTING, size=(4, 4)) if name == "multi_scale_conv" else MATRIX_SETTING)


def matrix_pictures() -> dict[str, tuple[str, str, bytes]]:
    """{name: (label, note, PNG)}, the entries clipped at half the largest so that small ones show."""
    pictures = {}
    for name, note in SHOWN.items():
        layer, setting = LAYERS[name], matrix_setting(name)
        result = measure(layer.build(setting), setting.size, setting.channels)
        matrix = channel_by_channel(result.matrix)
        note = note.format(rank=result.rank, neurons=result.neurons)
        factor = max(1, 288 // len(matrix))
        pixels = enlarged(colored(matrix.clamp(-_half(matrix), _half(matrix))), factor)
        pictures[name] = (layer.label, note, png(with_lines(pixels, len(pixels) // setting.channels)))
    return pictures


def _half(matrix: Tensor) -> float:
    return float(matrix.abs().max()) / 2


def draw_curves(curves: Curves) -> str:
    """One small panel as SVG, its text as paths, so that it looks the same everywhere."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(3.2, 2.1), layout="constrained")
    axes.plot(SHIFTS, list(curves.mixer.values()), "o-", color="#0b6e99", markersize=5, label="mixer")
    axes.plot(SHIFTS, list(curves.stage.values()), "s--", color="#c4501b", markersize=4, label="stage")
    for shift in SHIFTS[WINDOW::WINDOW]:
        axes.axvline(shift, color="#d5dbe1", zorder=0)
    axes.set(xlabel="shift (positions)", ylabel="relative error", ylim=(-0.08, 2.0), xticks=SHIFTS)
    axes.legend(frameon=False, loc="upper right", ncols=2, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return stream.getvalue()[stream.getvalue().index("<svg") :]
