"""Appendix C, measured: which translations change nothing, per mixer and for whole stages; and the relation graph."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from models import create_model
from models.mixers import BlockInfo, build_mixer
from models.mixers.conv_attention import FORMS
from models.theory.catalog import LAYERS, Setting
from models.theory.layers import Convolution
from models.theory.measure import generic_copy
from models.theory.relation import Cell, relation_graph
from models.theory.translation import translation_errors, translation_kind

WINDOW, SHIFTS = 4, tuple(range(9))
KINDS = {
    "dw_conv": ({}, "any"),
    "dw_conv shared": ({"share_channels": True}, "any"),
    "d_dw_conv": ({}, "any"),
    "i_dynamic": ({"groups": 4}, "any"),
    "window_attention": ({}, "blocks"),
    "static_window shared": ({"share_windows": True}, "blocks"),
    "static_window": ({}, "none"),
    **{f"conv_attention {form}": ({"form": form}, "any") for form in FORMS},
}


@pytest.mark.parametrize("shifted", [0, 1], ids=["", "shifted"])
@pytest.mark.parametrize("case", KINDS)
def test_mixer(case: str, shifted: int) -> None:
    options, kind = KINDS[case]
    info = BlockInfo(dim=8, num_heads=2, resolution=(20, 20), index=shifted)
    generator = torch.Generator().manual_seed(0)
    mixer = build_mixer(case.split()[0], info, window_size=WINDOW, **options)
    mixer = generic_copy(mixer, generator).eval()
    x = torch.randn(1, 20, 20, 8, dtype=torch.float64, generator=generator)
    errors = translation_errors(mixer, x, SHIFTS, margin=WINDOW)
    assert translation_kind(errors, WINDOW) == kind
    if kind != "any":
        assert min(errors[shift] for shift in SHIFTS if shift % WINDOW) > 1e-2


STAGES = {
    "dw_conv_nano": ({}, "any"),
    "i_dynamic_nano": ({"mixer_args": {"groups": 4}}, "any"),
    "swin_nano": ({}, "blocks"),
    "swin_nano, static windows": ({"mixer": "static_window"}, "none"),
    "swin_nano, static windows, shared": ({"mixer": "static_window", "mixer_args": {"share_windows": True}}, "blocks"),
    "swin_nano, convolutional attention": ({"mixer": "conv_attention", "mixer_args": {"form": "pre_conv"}}, "any"),
}


def stage_errors(case: str, side: int = 28, **overrides: Any) -> dict[int, float]:
    """Of the second stage, patch merging and two blocks, on a map of ``side``."""
    small = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": WINDOW, "num_classes": 0}
    model = create_model(case.split(",")[0], **small, img_size=side * 8, **overrides)
    generator = torch.Generator().manual_seed(0)
    stage = generic_copy(model.stages[1], generator).eval()
    x = torch.randn(1, 2 * side, 2 * side, 8, dtype=torch.float64, generator=generator)
    return translation_errors(stage, x, SHIFTS, margin=2 * WINDOW, stride=2)


@pytest.mark.parametrize("case", STAGES)
def test_whole_stage_with_patch_merging_and_shifted_windows(case: str) -> None:
    overrides, kind = STAGES[case]
    assert translation_kind(stage_errors(case, **overrides), WINDOW) == kind


def test_borders_reach_a_stage_of_dynamic_kernels_through_the_average() -> None:
    """D-DW-Conv averages the map, borders included, so from its second block on it is equivalent only nearly.

    The part of the borders in the average falls with the side of the map, and the error with it.
    """
    small, large = (max(stage_errors("d_dw_conv_nano", side).values()) for side in (28, 84))
    swin = max(stage_errors("swin_nano").values())
    assert 1e-9 < large < small / 2 and small < swin / 2


def test_a_weight_that_depends_slightly_on_the_position_is_seen() -> None:
    x = torch.randn(1, 20, 20, 8, dtype=torch.float64)
    ramp = torch.linspace(1, 1.0001, 20, dtype=torch.float64)[None, :, None, None]
    assert translation_kind(translation_errors(lambda v: v * ramp, x, SHIFTS, margin=2), WINDOW) == "none"
    assert translation_kind(translation_errors(lambda v: 2 * v, x, SHIFTS, margin=0), WINDOW) == "any"
    along_diagonals = torch.arange(20.0)[:, None] - torch.arange(20.0)
    skew = 1 + 1e-3 * along_diagonals.double()[None, :, :, None]  # blind to moves down and across by as much
    assert translation_kind(translation_errors(lambda v: v * skew, x, SHIFTS, margin=2), WINDOW) == "none"
    with pytest.raises(ValueError, match="a map of 20 is too small for shift 8 and margin 6"):
        translation_errors(lambda v: v, x, SHIFTS, margin=6)


@pytest.mark.parametrize("size", [(20, 20), (20, 24)], ids=str)
@pytest.mark.parametrize(("period", "kind"), [(1, "any"), (2, "2"), (3, "3"), (4, "blocks"), (5, "5")])
def test_the_smallest_exact_step_is_found(period: int, kind: str, size: tuple[int, int]) -> None:
    """A factor that repeats along one axis only, on maps that need not be square."""
    x = torch.randn(1, *size, 2, dtype=torch.float64)
    repeat = 1 + (torch.arange(120) % period).double()
    for axis, shape in ((1, (-1, 1, 1)), (2, (-1, 1))):
        factor = repeat[: size[axis - 1]].view(shape)
        errors = translation_errors(lambda v, factor=factor: v * factor, x, SHIFTS, margin=0)
        assert translation_kind(errors, WINDOW) == kind
    with pytest.raises(ValueError, match="a map of 10 is too small for shift 8 and margin 1"):
        translation_errors(lambda v: v, x[:, :, :10], SHIFTS, margin=1)


FIGURE_4 = {
    ("MLP", "LR MLP", "low rank"),
    ("MLP", "Sep. MLP", "channels: separable"),
    ("MLP", "Conv.", "positions: local window"),
    ("Conv.", "MS Conv.", "low rank"),
    ("Conv.", "DW-S Conv.", "channels: separable"),
    ("Conv.", "1x1 Conv.", "positions: only itself"),
    ("LR MLP", "MS Conv.", "positions: local window"),
    ("Sep. MLP", "DW-S Conv.", "positions: local window"),
    ("Sep. MLP", "ViT", "dynamic weight"),
    ("ViT", "Local ViT", "positions: local window"),
    ("ViT", "PVT", "low rank"),
    ("DW-S Conv.", "Local ViT", "dynamic weight"),
}


def test_figure_4_follows_from_the_declared_properties() -> None:
    graph = relation_graph(LAYERS, Setting())
    first = {cell: next(iter(names)) for cell, names in graph.cells.items()}
    assert {(first[arrow.source], first[arrow.target], arrow.change) for arrow in graph.arrows} == FIGURE_4
    local_dynamic = Cell(positions="local window", channels_connected=False, dynamic=True, low_rank=False)
    assert list(graph.cells[local_dynamic]) == ["Local ViT", "Dynamic DW-S Conv.", "I-Dynamic"]


def test_a_changed_declaration_changes_the_graph() -> None:
    class Wide(Convolution):
        properties = replace(Convolution.properties, positions="all")

    layers = {**LAYERS, "conv": replace(LAYERS["conv"], build=lambda s: Wide(s.channels, s.window))}
    graph = relation_graph(layers, Setting())
    mlp = next(cell for cell, names in graph.cells.items() if "MLP" in names)
    assert "Conv." in graph.cells[mlp]
