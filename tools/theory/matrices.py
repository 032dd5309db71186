"""The connection matrices of Appendix A as pictures, channel by channel."""

from dataclasses import replace

from torch import Tensor

from models.theory.catalog import LAYERS, Setting
from models.theory.measure import channel_by_channel
from models.theory.table import measure_layer
from tools.theory.images import colored, enlarged, png, with_lines

SETTING = Setting(size=(6, 6), window=3, channels=4, heads=2)
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


def matrix_pictures() -> dict[str, tuple[str, str, bytes]]:
    """{name: (label, note, PNG)}, the entries clipped at half the largest so that small ones show."""
    pictures = {}
    for name, note in SHOWN.items():
        layer = LAYERS[name]
        setting = replace(SETTING, size=(4, 4)) if name == "multi_scale_conv" else SETTING
        result = measure_layer(layer, setting)
        matrix = channel_by_channel(result.matrix)
        note = note.format(rank=result.rank, neurons=result.neurons)
        factor = max(1, 288 // len(matrix))
        pixels = enlarged(colored(matrix.clamp(-_half(matrix), _half(matrix))), factor)
        pictures[name] = (layer.label, note, png(with_lines(pixels, len(pixels) // setting.channels)))
    return pictures


def _half(matrix: Tensor) -> float:
    return float(matrix.abs().max()) / 2
