"""Pixels of unusual files: scaled by what the format says, or refused by name."""

import io

import numpy as np
import pytest
from PIL import Image

from data import CorruptImageError
from data.decode import decode, open_image


def file_of(array: np.ndarray, form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_of_grey_are_scaled_to_eight(form: str, channels: int) -> None:
    values = np.array([[0, 255, 256, 257, 32767, 65535]], dtype=np.uint16).repeat(4, 0)
    pixels = np.asarray(decode(open_image(file_of(values, form), "x", 10**6), channels))
    expected = np.round(values.astype(float) / 65535 * 255).astype(np.uint8)
    assert np.array_equal(pixels if channels == 1 else pixels[..., 0], expected)
    assert channels == 1 or np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floats"), (np.int32, "32-bit integers")])
def test_pixels_without_a_scale_are_refused_by_name(dtype: type, kind: str) -> None:
    image = open_image(file_of(np.full((4, 4), 1, dtype), "TIFF"), "scan.tif", 10**6)
    with pytest.raises(CorruptImageError, match=f"^scan.tif: its pixels are {kind}"):
        decode(image, 3)
