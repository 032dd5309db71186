"""Set or vector: only attention without positions lets the features of a window change places."""

import pytest
import torch
from torch import Tensor, nn

from models.mixers import BlockInfo, build_mixer
from models.mixers._windows import from_windows, to_windows
from models.mixers.conv_attention import FORMS
from models.mixers.window_attention import WindowAttention
from models.theory.sets import sees_sets

SIZE, WINDOW, DIM = (6, 9), 3, 8
SITE = BlockInfo(dim=DIM, num_heads=2, resolution=SIZE)

CASES = [
    ("window_attention", {"relative_position": False}, True),
    ("window_attention", {}, False),
    ("static_window", {}, False),
    ("static_window", {"share_windows": True}, False),
    ("dw_conv", {}, False),
    ("d_dw_conv", {}, False),
    ("i_dynamic", {"groups": 2}, False),
    *[("conv_attention", {"form": form}, False) for form in FORMS],  # the windows slide
]


@pytest.mark.parametrize(("name", "options", "sets"), CASES)
def test_which_mixers_see_sets(name: str, options: dict, sets: bool) -> None:
    mixer = build_mixer(name, SITE, window_size=WINDOW, **options)
    assert sees_sets(mixer, SIZE, WINDOW, DIM) == sets


class FirstPlaceCounts(WindowAttention):
    """Attention without a table that adds a little of the feature at the first place to all outputs."""

    def _attend(self, windows: Tensor, bias: Tensor | None) -> Tensor:
        return super()._attend(windows, bias) + 1e-6 * windows[:, :, :1]


class Circulant(nn.Module):
    """The mean of the own place and the next, in a circle: a cycle of the places is not seen, an exchange is."""

    def forward(self, x: Tensor) -> Tensor:
        windows = to_windows(x, WINDOW)
        return from_windows((windows + windows.roll(1, 2)) / 2, WINDOW, SIZE)


class MeanOfTheWindow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        windows = to_windows(x, WINDOW)
        return from_windows(windows + windows.mean(2, keepdim=True), WINDOW, SIZE)


class OnlyPairsExchanged(nn.Module):
    """The mean over the first two places: to exchange these is not seen, a cycle is."""

    def forward(self, x: Tensor) -> Tensor:
        windows = to_windows(x, WINDOW)
        return from_windows(windows + windows[:, :, :2].mean(2, keepdim=True), WINDOW, SIZE)


def test_a_place_that_counts_is_seen() -> None:
    assert not sees_sets(FirstPlaceCounts(SITE, window_size=WINDOW, relative_position=False), SIZE, WINDOW, DIM)
    assert not sees_sets(Circulant(), SIZE, WINDOW, DIM)
    assert not sees_sets(OnlyPairsExchanged(), SIZE, WINDOW, DIM)
    assert sees_sets(MeanOfTheWindow(), SIZE, WINDOW, DIM)


def test_measuring_leaves_the_mixer_as_it_is() -> None:
    mixer = build_mixer("window_attention", SITE, window_size=WINDOW).train()
    before = {key: value.clone() for key, value in mixer.state_dict().items()}
    sees_sets(mixer, SIZE, WINDOW, DIM)
    assert mixer.training and all(torch.equal(before[key], value) for key, value in mixer.state_dict().items())
