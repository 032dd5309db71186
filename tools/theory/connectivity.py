"""Figure 1: which inputs reach one output, drawn from measured connection matrices."""

import torch
from torch import Tensor

from models.theory.catalog import LAYERS, Setting
from models.theory.measure import ZERO
from models.theory.table import measure_layer
from tools.theory import svg

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
        svg.text(left + 1.5 * STEP_X, 18, "input", size=14, color=svg.MUTED),
        svg.text(out_left + 1.5 * STEP_X, 18, "output", size=14, color=svg.MUTED),
        svg.text(width / 2, height - 10, "across: channels, down: positions", size=14, color=svg.MUTED),
    ]
    nodes = []
    for p in range(positions):
        for c in range(channels):
            x, y, used = left + c * STEP_X, top + p * STEP_Y, bool(reach[p, c])
            if used:
                shapes.append(svg.line(x, y, *target, svg.ACCENT, 1.4, 'opacity="0.55"'))
            nodes.append(svg.circle(x, y, RADIUS, svg.ACCENT if used else "white"))
            here = (p, c) == (POSITION, CHANNEL)
            nodes.append(svg.circle(out_left + c * STEP_X, y, RADIUS, svg.SECOND if here else "white"))
    return svg.document(width, height, shapes + nodes, f"Figure 1 {letter}: {PANELS[letter][0]}")


def connectivity_panels() -> dict[str, tuple[str, str]]:
    """{letter: (caption, SVG)}. RuntimeError where layers of one panel differ, for then the figure would be wrong."""
    panels = {}
    for letter, (caption, names) in PANELS.items():
        reaches = [row_of_reach(measure_layer(LAYERS[name], SETTING).matrix) for name in names]
        if any(not torch.equal(reach, reaches[0]) for reach in reaches):
            raise RuntimeError(f"Figure 1 {letter}: {', '.join(names)} are not connected alike")
        panels[letter] = (caption, panel(letter, reaches[0]))
    return panels
