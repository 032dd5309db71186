"""The translation curves of Appendix C: error over shift of each operator alone and of a stage of two blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import create_model
from ..errors import UserError, hint
from ..mixers import BlockInfo, build_mixer, list_mixers, mixer_variants
from .catalog import checked_options
from .measure import generic_copy
from .translation import translation_errors, translation_kind

WINDOW, SIDE, DIM, HEADS = 4, 28, 8, 2
SHIFTS = tuple(range(2 * WINDOW + 1))


@dataclass(frozen=True)
class Subject:
    """An operator whose curves are drawn."""

    label: str
    mixer: str
    options: dict[str, Any] = field(default_factory=dict)


SUBJECTS = [
    Subject("DW-Conv.", "dw_conv"),
    Subject("D-DW-Conv.", "d_dw_conv"),
    Subject("I-Dynamic", "i_dynamic", {"groups": 4}),
    Subject("Convolutional attention", "conv_attention", {"form": "post_conv"}),
    Subject("Window attention", "window_attention"),
    Subject("Static windows, shared", "static_window", {"share_windows": True}),
    Subject("Static windows", "static_window"),
]


def find_subject(name: str, options: Mapping[str, Any]) -> Subject:
    """A mixer of the zoo with ``options``, or one of its variants; both as :func:`..catalog.find_layer` knows them.

    Raises:
        UserError: no such mixer or option, or the name is that of a layer, which has no stage.
    """
    variants = mixer_variants()
    if name in variants and not options:
        mixer, variant = variants[name]
        return Subject(variant.label, mixer, variant.options_for(HEADS))
    if name not in list_mixers():
        known = list_mixers() if options else [*variants, *list_mixers()]
        raise UserError(f"{name!r} is not a mixer; {hint(name, known)}")
    return Subject(name, name, checked_options(name, options))


@dataclass(frozen=True)
class Curves:
    """Errors by shift of the mixer and of the stage, and which translations the mixer is equivalent to."""

    mixer: dict[int, float]
    stage: dict[int, float]
    kind: str


def measure_curves(subject: Subject) -> Curves:
    """Random parameters, float64; the stage is patch merging and two blocks, the second with shifted windows."""
    generator = torch.Generator().manual_seed(0)
    info = BlockInfo(dim=DIM, num_heads=HEADS, resolution=(SIDE, SIDE))
    mixer = generic_copy(build_mixer(subject.mixer, info, window_size=WINDOW, **subject.options), generator).eval()
    x = torch.randn(1, SIDE, SIDE, DIM, dtype=torch.float64, generator=generator)
    alone = translation_errors(mixer, x, SHIFTS, margin=WINDOW)
    model: Any = create_model(
        "dw_conv_nano",  # for the sizes that do not follow; norms come with the mixer
        mixer=subject.mixer,
        mixer_args=subject.options,
        embed_dim=DIM,
        depths=(1, 2),
        num_heads=(1, HEADS),
        window_size=WINDOW,
        img_size=SIDE * 8,
        num_classes=0,
    )
    stage = generic_copy(model.stages[1], generator).eval()
    x = torch.randn(1, 2 * SIDE, 2 * SIDE, DIM, dtype=torch.float64, generator=generator)
    whole = translation_errors(stage, x, SHIFTS, margin=2 * WINDOW, stride=2)
    return Curves(alone, whole, translation_kind(alone, WINDOW))
