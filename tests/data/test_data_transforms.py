"""Parts of the transforms by themselves; as wholes they are compared with timm's in test_data_recipe.py."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import functional

from data import DataConfig
from data.config import AugmentConfig
from data.decode import Encoded, open_image
from data.transforms import (
    EvalTransform,
    TrainTransform,
    boxes_with_noise,
    channel_values,
    draw_erased,
    pair,
    to_array,
)
from models.errors import UserError

NO_CHANGE = {"hflip": 0.0, "vflip": 0.0, "auto_augment": None, "color_jitter": 0.0, "erase_prob": 0.0}


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(width + height)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8), mode)


def encoded(image: Image.Image) -> Encoded:
    file = io.BytesIO()
    image.save(file, "PNG")
    return open_image(file.getvalue(), "x.png", 10**6)


def planes(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def test_sizes_are_height_and_width() -> None:
    assert pair(7) == (7, 7) and pair((5, 9)) == (5, 9)
    assert channel_values((0.5,), 3) == (0.5, 0.5, 0.5) and channel_values((0.1, 0.2, 0.3), 3) == (0.1, 0.2, 0.3)


def test_arrays_are_channels_first() -> None:
    colour, grey = picture(5, 4), picture(5, 4, "L")
    assert np.array_equal(to_array(colour), planes(colour)) and to_array(colour).dtype == np.uint8
    assert np.array_equal(to_array(grey), np.asarray(grey)[None])


@pytest.mark.parametrize(("size", "resized"), [(32, False), (33, True), ((32, 40), True), ((40, 32), True)])
def test_up_to_32_pixels_images_are_cut_and_above_resized(size, resized: bool) -> None:
    """An image of the size itself: padding of 0 and a cut leave it as it is; a resized crop does not."""
    height, width = pair(size)
    image = picture(width, height)
    for crop in ("auto", "padded", "resized"):
        torch.manual_seed(1)
        random.seed(1)
        cfg = DataConfig(augment=AugmentConfig(crop=crop, padding=0, scale=(0.3, 0.4), **NO_CHANGE))
        found = TrainTransform(cfg, size)(encoded(image))
        same = np.array_equal(found.pixels, planes(image))
        assert same == {"auto": not resized, "padded": True, "resized": False}[crop]
        assert found.erased == []


def test_padded_crops_move_by_the_padding_at_most_and_pad_what_is_small() -> None:
    image = Image.new("RGB", (8, 8), (255, 255, 255))
    transform = TrainTransform(DataConfig(augment=AugmentConfig(crop="padded", padding=3, **NO_CHANGE)), 8)
    dark = set()
    for seed in range(60):
        torch.manual_seed(seed)
        dark.add(int((transform(encoded(image)).pixels[0] == 0).all(1).sum()))
    assert dark == {0, 1, 2, 3}  # black rows above or below
    small = TrainTransform(DataConfig(augment=AugmentConfig(padding=0, **NO_CHANGE)), 12)(encoded(image))
    assert small.pixels.shape == (3, 12, 12) and (small.pixels == 255).sum() == 3 * 64


@pytest.mark.parametrize(("flip", "axis"), [("hflip", 2), ("vflip", 1)])
def test_a_flip_is_drawn_by_its_own_probability(flip: str, axis: int) -> None:
    image = picture(6, 6)
    transform = TrainTransform(DataConfig(augment=AugmentConfig(padding=0, **{**NO_CHANGE, flip: 0.25})), 6)
    turned = 0
    for seed in range(200):
        torch.manual_seed(seed)
        found = transform(encoded(image)).pixels
        other = np.flip(planes(image), axis)
        assert np.array_equal(found, planes(image)) or np.array_equal(found, other)
        turned += np.array_equal(found, other)
    assert 30 <= turned <= 70  # 50 expected, and 3 standard deviations are 18


@pytest.mark.parametrize(("flip", "axis"), [("hflip", 2), ("vflip", 1)])
def test_a_resized_crop_is_flipped_after_it_is_drawn(flip: str, axis: int) -> None:
    image, found = encoded(picture(60, 50)), {}
    for chance in (0.0, 1.0):
        random.seed(3)  # timm's crop
        torch.manual_seed(3)
        found[chance] = TrainTransform(DataConfig(augment=AugmentConfig(**{**NO_CHANGE, flip: chance})), 40)(image)
    assert np.array_equal(found[1.0].pixels, np.flip(found[0.0].pixels, axis))


def test_pixels_of_the_right_size_are_evaluated_as_they_are() -> None:
    pixels = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    found = EvalTransform(DataConfig(), 8)(Encoded("x", (8, 8), pixels=pixels))
    assert np.array_equal(found.pixels, pixels) and found.erased == []


def test_what_timm_does_not_know_is_named() -> None:
    with pytest.raises(UserError) as caught:
        TrainTransform(DataConfig(augment=AugmentConfig(auto_augment="rnd-m9")), 32)
    assert str(caught.value) == ("data.augment.auto_augment=rnd-m9 is not known to timm; e.g. rand-m9-mstd0.5-inc1")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erased_boxes_and_their_noise_are_timms(mode: str, count: int) -> None:
    """The same draws in the same order, on images that are not square."""
    augment = AugmentConfig(erase_prob=0.7, erase_mode=mode, erase_count=count)
    theirs = RandomErasing(probability=0.7, mode=mode, max_count=count, device="cpu")
    drawn = 0
    for seed in range(25):
        random.seed(seed)
        torch.manual_seed(seed)
        wanted = torch.full((3, 20, 30), 9.0)
        theirs(wanted)
        random.seed(seed)
        torch.manual_seed(seed)
        found = torch.full((3, 20, 30), 9.0)
        for box in draw_erased(augment, 3, (20, 30)):
            height, width = box.noise.shape[1:]
            found[:, box.top : box.top + height, box.left : box.left + width] = box.noise
            drawn += 1
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert drawn > 10


def test_a_draw_as_large_as_the_probability_erases(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in timm, which leaves an image alone where the draw is above it."""
    monkeypatch.setattr(random, "random", lambda: 0.5)
    assert len(draw_erased(AugmentConfig(erase_prob=0.5), 3, (20, 20))) == 1
    assert draw_erased(AugmentConfig(erase_prob=0.4999), 3, (20, 20)) == []


def test_what_augmentation_uncovers_has_the_mean_colour() -> None:
    cfg = DataConfig(mean=(0.0, 0.5, 1.0), fast_decode=False)
    (augment,) = TrainTransform(cfg, 64).operations
    assert {operation.hparams["img_mean"] for operation in augment.ops} == {(0, 128, 255)}


def test_no_probability_draws_nothing() -> None:
    random.seed(3)
    before = random.getstate()
    assert draw_erased(AugmentConfig(erase_prob=0), 3, (9, 9)) == [] and random.getstate() == before


def test_noise_has_the_shape_of_its_box() -> None:
    boxes = [(1, 2, 3, 4), (5, 6, 2, 2)]
    for mode in ("pixel", "rand", "const"):
        torch.manual_seed(0)
        found = boxes_with_noise(boxes, mode, 3)
        assert [(e.top, e.left, tuple(e.noise.shape)) for e in found] == [(1, 2, (3, 3, 4)), (5, 6, (3, 2, 2))]
        values = {len(e.noise.flatten(1).unique(dim=1).T) for e in found}
        assert values == {"pixel": {12, 4}, "rand": {1}, "const": {1}}[mode]
        assert (found[0].noise == 0).all() == (mode == "const")


@pytest.mark.parametrize(
    ("mode", "size"),
    [("auto", 32), ("auto", (32, 40)), ("none", 40), ("squash", 24), ("center", 24), ("center", (24, 40))],
)
def test_evaluation_crops_are_what_their_names_say(mode: str, size) -> None:
    image = picture(50, 44)
    height, width = pair(size)
    cfg = DataConfig(eval_crop=mode, crop_pct=0.5, interpolation="bilinear")
    found = EvalTransform(cfg, size)(encoded(image))
    if mode == "squash":
        wanted = image.resize((width, height), Image.Resampling.BILINEAR)
    elif mode == "none" or (mode == "auto" and size == 32):
        wanted = functional.center_crop(image, [height, width])
    else:  # the image covers size / 0.5, then the middle is cut; torchvision and timm round the longer side differently
        factor = max(2 * height / 44, 2 * width / 50)
        sides = [2 * height] if height == width else [round(44 * factor), round(50 * factor)]
        wanted = functional.resize(image, sides, functional.InterpolationMode.BILINEAR)
        wanted = functional.center_crop(wanted, [height, width])
    assert found.pixels.shape == (3, height, width) and found.erased == []
    assert np.array_equal(found.pixels, planes(wanted))


def test_grey_pictures_stay_grey_where_one_channel_is_wanted() -> None:
    image = picture(8, 8, "L")
    cfg = DataConfig(channels=1, mean=(0.5,), std=(0.5,))
    assert np.array_equal(EvalTransform(cfg, 8)(encoded(image)).pixels, np.asarray(image)[None])
    assert np.array_equal(EvalTransform(DataConfig(), 8)(encoded(image)).pixels, planes(image))


def test_digits_are_28_pixels_wide_and_high(tmp_path: Path) -> None:
    from data.readers.mnist import MnistReader, load_digits, mnist_file, split_rows

    reader = MnistReader("val")
    digits, labels = load_digits(mnist_file())
    row = split_rows(labels, "val")[70]
    found = reader.open(70)
    assert (found.name, found.size) == (f"mnist_5k.csv.gz line {row + 1}", (28, 28))
    assert np.array_equal(to_array(found.opened), digits[row][None])
    assert reader.records.classes == [str(number) for number in range(10)]
    assert reader.records.labels[70] == labels[row]
