"""The augmentation is timm's with Swin's arguments; the fast ways differ by little, and how much is stated here."""

import io
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import NAME_TO_OP
from torchvision import transforms

from data import DataConfig
from data.batch import Normalizer, RawBatch
from data.crop import _to_tensor, dct_scale, exact_crop, fast_crop
from data.decode import Encoded, first_rows, jpeg_frame, open_image
from data.errors import CorruptImageError
from data.randaugment import _FAST
from data.sampler import BatchKey
from data.transforms import EvalTransform, TrainTransform
from data.upload import Upload

EXACT = DataConfig(fast_decode=False)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of ImageNet size with edges, texture and colour (made, not taken)."""
    y, x = np.mgrid[0:375, 0:500]
    rng = np.random.default_rng(1)
    texture = rng.normal(0, 12, (375, 500, 3))
    waves = np.stack([np.sin(x / 17 + y / 29), np.cos(x / 7), np.sin(y / 5 + x / 90)], axis=-1)
    pixels = 128 + 70 * waves + texture + 40 * ((x // 50 + y // 50) % 2)[..., None]
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def opened(path: Path) -> Encoded:
    return open_image(path.read_bytes(), path.name, 10**8)


def ours(cfg: DataConfig, path: Path, size: int, seed: int) -> torch.Tensor:
    seed_all(seed)
    sample = TrainTransform(cfg, size)(opened(path))
    boxes = [(0, box.top, box.left, *box.noise.shape[1:]) for box in sample.erased]
    noise = np.concatenate([np.empty(0, np.float32), *(box.noise.numpy().ravel() for box in sample.erased)])
    key = BatchKey(0, 0, 0, np.zeros(1, np.int64), np.zeros(1, np.int64))
    pixels = torch.from_numpy(np.array(sample.pixels[None]))
    raw = RawBatch(key, [0], boxes, noise, pixels=pixels)
    return Normalizer(cfg.mean, cfg.std, Upload(torch.device("cpu"), pin_memory=False))(raw).images[0]


def swin_transform(size: int):
    """What Swin's training calls (its AUG defaults); up to 32 pixels it replaces the crop."""
    full = create_transform(
        size,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
        interpolation="bicubic",
    )
    if size <= 32:
        full.transforms[0] = transforms.RandomCrop(size, padding=4)
    return full


@pytest.mark.parametrize("size", [224, 32])
def test_training_images_are_those_of_timm_with_swins_arguments(photo: Path, size: int):
    theirs = swin_transform(size)
    erased = 0
    for seed in range(24):
        seed_all(seed)
        expected = theirs(Image.open(photo).convert("RGB"))
        image = ours(EXACT, photo, size, seed)
        torch.testing.assert_close(image, expected, rtol=0, atol=2e-6)
        erased += int((image.abs() > 3).any())  # only noise goes that far
    assert 2 <= erased <= 14


def test_the_operations_and_their_order_are_those_of_timm():
    names = [type(operation).__name__ for operation in swin_transform(224).transforms]
    assert names == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "RandAugment",
        "MaybeToTensor",
        "Normalize",
        "RandomErasing",
    ]
    operations = TrainTransform(EXACT, 224).operations
    assert [type(operation).__name__ for operation in operations] == names[2:3]
    assert repr(operations[0]) == repr(swin_transform(224).transforms[2])


def test_parts_can_be_switched_off(photo: Path):
    cfg = DataConfig(augment={"hflip": 0, "auto_augment": None, "color_jitter": 0, "erase_prob": 0})
    assert TrainTransform(cfg, 224).operations == []
    jitter = TrainTransform(DataConfig(augment={"auto_augment": None, "hflip": 0}), 224).operations
    assert jitter[0].brightness == (0.6, 1.4) and jitter[0].hue is None


@pytest.mark.parametrize("size", [224, 384])
def test_evaluation_images_are_those_of_timm(photo: Path, size: int):
    expected = create_transform(size, crop_pct=0.875, interpolation="bicubic", normalize=False)
    image = EvalTransform(DataConfig(), size)(opened(photo)).pixels
    assert (image == expected(Image.open(photo).convert("RGB")).numpy()).all()
    squashed = EvalTransform(DataConfig(eval_crop="squash"), size)(opened(photo)).pixels
    whole = Image.open(photo).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    assert (squashed.transpose(1, 2, 0) == np.asarray(whole)).all()


@pytest.mark.parametrize(
    ("box", "scale"), [((0, 0, 895, 900), 1), ((0, 0, 900, 896), 4), ((0, 0, 1791, 1792), 4), ((0, 0, 1792, 2000), 8)]
)
def test_the_scale_of_decoding_leaves_the_crop_enough_pixels(box: tuple[int, int, int, int], scale: int):
    assert dct_scale(box, (224, 224)) == scale


@pytest.mark.parametrize(
    ("box", "side", "scale", "most", "mean"),
    [((30, 40, 300, 400), 224, 1, 1, 0.01), ((0, 5, 374, 490), 112, 1, 1, 0.01), ((20, 12, 340, 460), 80, 4, 40, 3.0)],
)
def test_fast_crops_differ_by_little(
    photo: Path, box: tuple[int, int, int, int], side: int, scale: int, most: int, mean: float
):
    """Whole decoding: by one level at most, also at three times the output. DCT scaling: by the filters' aliasing."""
    size = (side, side)
    exact = np.asarray(exact_crop(opened(photo), box, size, "bicubic", 3)).astype(int)
    fast = np.asarray(fast_crop(opened(photo), box, size, "bicubic", 3)).astype(int)
    assert dct_scale(box, size) == scale
    difference = np.abs(exact - fast)
    assert 0 < difference.max() <= most and difference.mean() < mean


@pytest.mark.parametrize("name", sorted(_FAST))
@pytest.mark.parametrize("amount", [-0.3, -0.017, 0.0, 0.121, 0.45])
def test_fast_shears_and_translations_differ_by_one_level_at_most(photo: Path, name: str, amount: float):
    image = Image.open(photo).convert("RGB").resize((224, 200))
    arguments = {"fillcolor": (124, 116, 104), "resample": Image.Resampling.BICUBIC}
    slow = np.asarray(NAME_TO_OP[name](image, amount, **arguments)).astype(int)
    fast = np.asarray(_FAST[name](image, amount, **arguments)).astype(int)
    assert np.abs(slow - fast).max() <= 1
    assert (slow != fast).mean() < 0.01


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 2}, {"progressive": True}, {"optimize": True}])
def test_rows_below_the_crop_change_nothing(photo: Path, subsampling: int, options: dict):
    """Both ways of decoding stop early; the pixels of the crop are those of the whole image."""
    buffer = io.BytesIO()
    Image.open(photo).save(buffer, "JPEG", subsampling=subsampling, quality=90, **options)
    whole = open_image(buffer.getvalue(), "photo", 10**8)
    assert whole.data is not None
    for rows in (1, 15, 16, 17, 100, 260, 374, 375):
        part = _to_tensor(first_rows(whole, rows))
        assert part.shape[1] >= rows and (part.shape[1] < 375) == (rows < 371 and "progressive" not in options)
        assert (part[:, :rows] == _to_tensor(bytearray(whole.data))[:, :rows]).all()
    for box, scale in (((0, 0, 224, 224), 4), ((31, 40, 250, 260), 4), ((31, 40, 250, 260), 8)):
        size = (224 // scale, 224 // scale)
        crops = [fast_crop(Encoded("photo", whole.size, whole.data + end, whole.frame), box, size, "bicubic", 3)
                 for end in (b"", b"no end: decoded as a whole")]  # fmt: skip
        assert dct_scale(box, size) == scale and crops[0].tobytes() == crops[1].tobytes()


def test_a_file_that_is_cut_off_is_decoded_as_a_whole(photo: Path):
    data = photo.read_bytes()
    assert len(first_rows(opened(photo), 100)) == len(data)
    cut = open_image(data[: len(data) // 2], "cut", 10**8)
    with pytest.raises(CorruptImageError, match="cut: not a readable image"):
        fast_crop(cut, (0, 0, 50, 50), (40, 40), "bicubic", 3)


def test_workers_stop_early_and_say_nothing(photo: Path, capfd: pytest.CaptureFixture):
    """libjpeg reports on stderr that a file goes on after the last wanted row."""
    _to_tensor(first_rows(opened(photo), 100))
    assert "extraneous bytes" in capfd.readouterr().err
    with ProcessPoolExecutor(1) as pool:
        there = pool.submit(fast_crop, opened(photo), (0, 0, 50, 50), (40, 40), "bicubic", 3).result()
    assert capfd.readouterr().err == ""
    assert there.tobytes() == fast_crop(opened(photo), (0, 0, 50, 50), (40, 40), "bicubic", 3).tobytes()


def test_the_whole_fast_pipeline_stays_near_the_exact_one(photo: Path):
    differences = []
    for seed in range(40):
        both = [ours(DataConfig(fast_decode=fast), photo, 224, seed) for fast in (True, False)]
        differences.append((both[0] - both[1]).abs().mean().item())
    assert 0 < np.mean(differences) < 0.01  # in units of the normalised image; one level is 0.017


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str):
    image = Image.new("RGB", (60, 50), (200, 100, 50)).convert(mode)
    path = tmp_path / ("x.jpg" if mode in ("L", "CMYK") else "x.png")
    image.save(path)
    exact = ours(EXACT.model_copy(update={"augment": PLAIN}), path, 48, 0)
    fast = ours(DataConfig(augment=PLAIN), path, 48, 0)
    assert exact.shape == (3, 48, 48)
    torch.testing.assert_close(exact, fast, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(900)}, {"comment": b"x" * 70}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_size_of_a_jpeg_is_found_as_pil_finds_it(options: dict, mode: str):
    for size in ((1, 1), (500, 375), (8, 700)):
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, "JPEG", **options)
        frame = jpeg_frame(buffer.getvalue())
        assert frame is not None and frame.size == size


def test_what_is_no_ordinary_jpeg_is_left_to_pil():
    buffer = io.BytesIO()
    Image.new("CMYK", (9, 7)).save(buffer, "JPEG")
    content = buffer.getvalue()
    for data in (content, content[:30], b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff\xff", b"\x89PNG" + bytes(50)):
        assert jpeg_frame(data) is None


PLAIN = DataConfig(augment={"auto_augment": None, "color_jitter": 0, "erase_prob": 0}).augment


@pytest.mark.parametrize(("flip", "axis"), [("hflip", 1), ("vflip", 0)])
def test_flips_turn_the_side_that_they_name_as_often_as_they_say(flip: str, axis: int) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    image = Encoded("x", (8, 8), opened=Image.fromarray(pixels))
    plain = {"hflip": 0, "vflip": 0, "auto_augment": None, "color_jitter": 0, "erase_prob": 0, "padding": 0}

    def share(probability: float) -> float:
        transform = TrainTransform(DataConfig(augment={**plain, flip: probability, "crop": "padded"}), 8)
        results = [transform(image).pixels.transpose(1, 2, 0) for _ in range(200)]
        flipped = [np.array_equal(result, np.flip(pixels, axis)) for result in results]
        assert all(flip or np.array_equal(result, pixels) for flip, result in zip(flipped, results, strict=True))
        return sum(flipped) / len(flipped)

    assert share(0) == 0 and share(1) == 1
    assert 0.12 < share(0.25) < 0.4
