"""One option set of one mixer, as the tests over the registry see it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models import create_model
from models.backbone import LocalNet
from models.mixers import BlockInfo, Mixer, Variant, build_mixer, mixer_variants
from models.mixers.base import Properties

HEADS = 2


@dataclass(frozen=True)
class MixerCase:
    """A variant of a mixer that the registry knows."""

    key: str
    mixer: str
    variant: Variant

    def build(self, size: tuple[int, int] = (6, 6), *, dim: int = 8, window: int = 3, shifted: bool = False) -> Mixer:
        """The mixer for maps (B, *size, dim), with two heads."""
        info = BlockInfo(dim=dim, num_heads=HEADS, resolution=size, index=int(shifted))
        return build_mixer(self.mixer, info, window_size=window, **self.variant.options_for(HEADS))

    def network(self, **overrides: Any) -> LocalNet:
        """A nano model around the mixer, for images of 64x64."""
        options = {"img_size": 64, "num_classes": 5, "num_heads": (2, 2, 2, 2), **overrides}
        return create_model(  # the name gives the sizes only: mixer and norms come from the case
            "dw_conv_nano", mixer=self.mixer, mixer_args=self.variant.options_for(HEADS), **options
        )

    @property
    def properties(self) -> Properties:
        """What the mixer declares."""
        return self.build().properties


def mixer_cases() -> Iterator[MixerCase]:
    """Every variant of every mixer of the folder."""
    for key, (mixer, variant) in mixer_variants().items():
        yield MixerCase(key, mixer, variant)
