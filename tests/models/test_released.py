"""Models by name with released weights: the list, the whole path at full size, what adapts, what was never released."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from models import create_model, list_models
from models.errors import UserError
from models.released import RELEASES, released
from tests.reference_data import REFERENCE
from tests.released_weights import NANO, save_as_released
from tools.tables.loading import load_tables


@pytest.fixture
def nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, torch.Tensor]]:
    """A nano model as one more release, on a mirror: its weights under the authors' names."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LOCALMIXER_MIRROR", str(tmp_path))
    monkeypatch.setitem(RELEASES, (NANO.model, NANO.task), NANO)
    yield save_as_released(tmp_path / NANO.file)


def test_the_list_agrees_with_the_rows_of_the_paper(repo: Path) -> None:
    """Each release stands for a row, whose numbers of the paper its README repeats within 0.3 points."""
    rows = {
        (row.config_of(task), task): row.paper
        for table in load_tables()
        for row in table.rows
        for task in table.tasks()
    }
    assert len(RELEASES) == 18 and len({release.url for release in RELEASES.values()}) == 18
    for release in RELEASES.values():
        assert (repo / release.config).is_file()
        paper = rows[release.config, release.task]
        for quantity in release.readme.keys() & paper.keys():
            assert abs(float(paper[quantity]) - release.readme[quantity]) < 0.31, release
        assert {"classification": 1000, "detection": 80, "segmentation": 150}[release.task] == release.num_classes


def test_names_with_weights() -> None:
    six = {f"{family}_{size}" for family in ("swin", "dw_conv", "d_dw_conv") for size in ("tiny", "base")}
    assert set(list_models(pretrained=True)) == six <= set(list_models())
    assert all(timm.models.is_model_pretrained(name) == (name in six) for name in list_models())


def test_the_whole_path_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dwnet_tiny_224.pth as the authors' script saves it, with made-up weights: every one of them is in the model."""
    shapes = json.loads((REFERENCE / "checkpoint_keys" / "dwnet_tiny.json").read_text())
    state = {key: torch.full(shape, number) for number, (key, shape) in enumerate(shapes.items())}
    torch.save({"model": state, "epoch": 299}, tmp_path / "dwnet_tiny_224.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LOCALMIXER_MIRROR", str(tmp_path))
    model = create_model("dw_conv_tiny", pretrained=True)
    assert sum(p.numel() for p in model.parameters()) == 24_172_744
    found = {(int(value.max()), int(value.min()), value.numel()) for value in model.state_dict().values()}
    assert found == {(number, number, state[key].numel()) for number, key in enumerate(state)}
    theirs = "layers.2.blocks.5.attn2conv.conv0.weight"
    assert torch.equal(model.stages[2].blocks[5].mixer.proj_in.weight, state[theirs].flatten(1))


def test_through_timm_torch_hub_and_as_feature_maps(nano, repo: Path) -> None:
    hub = torch.hub.load(str(repo), "dw_conv_nano", source="local", pretrained=True)
    assert torch.equal(hub.head.weight, nano["head.weight"])
    image = torch.randn(1, 3, 64, 64)
    model = timm.create_model("dw_conv_nano", pretrained=True).eval()
    maps = timm.create_model("dw_conv_nano", pretrained=True, features_only=True).eval()
    assert torch.equal(model.head.weight, nano["head.weight"])
    with torch.no_grad():
        assert torch.equal(maps(image)[3], model.forward_intermediates(image, intermediates_only=True)[3])


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_other_channels_adapt_as_timm_does(nano, channels: int, caplog: pytest.LogCaptureFixture) -> None:
    """One channel: the sum of three. More: repeated in turn, times 3 / channels; a grey image then gives the same."""
    kernel = nano["patch_embed.proj.weight"]
    model = create_model("dw_conv_nano", pretrained=True, in_chans=channels)
    order = [channel % 3 for channel in range(channels)]
    expected = kernel.sum(1, keepdim=True) if channels == 1 else kernel[:, order] * (3 / channels)
    assert torch.allclose(model.patch_embed.proj.weight, expected)
    assert [record.getMessage() for record in caplog.records] == [
        f"dwnet_nano.pth: resized patch_embed.proj.weight from 3 to {channels} input channels"
    ]


def test_what_was_changed_is_said_on_one_line(nano, caplog: pytest.LogCaptureFixture) -> None:
    create_model("dw_conv_nano", pretrained=True, img_size=64, drop_path_rate=0.1, global_pool="")
    assert not caplog.records
    torch.manual_seed(3)
    model = create_model("dw_conv_nano", pretrained=True, num_classes=5, window_size=9)
    torch.manual_seed(3)
    fresh = create_model("dw_conv_nano", num_classes=5, window_size=9)
    assert torch.equal(model.head.weight, fresh.head.weight)
    (record,) = caplog.records
    op = "mixer.op.weight"
    assert record.levelno == logging.WARNING and record.getMessage() == (
        f"dwnet_nano.pth: resized stages.0.blocks.0.{op} (32, 7, 7) -> (32, 9, 9), "
        f"stages.1.blocks.0.{op} (64, 7, 7) -> (64, 9, 9), 3 more; "
        "initialised anew: head (1000 classes in the checkpoint, 5 in the model)"
    )


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        (
            "i_dynamic_tiny",
            {},
            "no weights of I-Dynamic were ever released; train it .*configs/imagenet/i_dynamic_tiny",
        ),
        ("swin_nano", {}, "no released weights of it for classification are known; train it, or take one of swin_tiny"),
        ("pvt_small", {}, "no released weights of it"),
        ("dw_conv_tiny", {"se": True, "num_classes": 3}, "another se: no weights of such a variant were ever released"),
        ("dw_conv_tiny", {"norm": "ccbn", "extra_dw": True}, "another extra_dw, norm: no weights of such a variant"),
        ("swin_tiny", {"mixer": "static_window"}, "another mixer: .*configs/ablations"),
        ("dw_conv_tiny", {"mixer_args": {"share_channels": True}}, "another mixer_args: "),
    ],
)
def test_what_was_never_released(name: str, overrides, words: str, nano) -> None:
    """Said before anything is fetched: the mirror has none of these files."""
    with pytest.raises(UserError, match=f"^{name}.*{words}"):
        create_model(name, pretrained=True, **overrides)


@pytest.mark.parametrize("overrides", [{"norm": "bn"}, {"mixer_args": {"window_pad": True}}, {"embed_dim": 32}])
def test_the_plain_model_said_otherwise_has_weights(nano, overrides) -> None:
    assert torch.equal(create_model("dw_conv_nano", pretrained=True, **overrides).head.weight, nano["head.weight"])


@pytest.mark.parametrize(
    ("task", "command"),
    [
        ("detection", "detection/train.py detection/configs/cascade-mask-rcnn"),
        ("segmentation", "segmentation/train.py segmentation/configs/upernet"),
    ],
)
def test_dense_releases(task, command: str, repo: Path) -> None:
    with pytest.raises(UserError, match=f"python {command}_i-dynamic-base_.*or take one of swin_tiny") as caught:
        released("i_dynamic_base", task)
    assert (repo / str(caught.value).split(")")[0].split()[-1]).is_file()


def test_a_file_of_ones_own_in_place_of_the_released(tmp_path: Path) -> None:
    """timm's own way to name a file; what is wrong with it is said with its name."""
    first = create_model("dw_conv_nano", num_classes=3)
    save_file(first.state_dict(), tmp_path / "mine.safetensors")
    model = create_model("dw_conv_nano", num_classes=3)
    model.load_pretrained(tmp_path / "mine.safetensors")
    assert torch.equal(model.head.weight, first.head.weight)
    with pytest.raises(UserError, match=r"mine.safetensors: .*the weights are of dw_conv_nano, the model is swin_nano"):
        create_model("swin_nano").load_pretrained(tmp_path / "mine.safetensors")
