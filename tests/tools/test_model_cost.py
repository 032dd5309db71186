"""What a model costs, by its name, its config or itself: of every model of the zoo and of any input."""

import pytest
import timm
import torch

import models
from models import create_model
from models.cost import model_cost
from models.errors import UserError
from tools import quickstart
from tools.model_cost import measure


@pytest.mark.parametrize("name", ["resnet38_basic", "pvt_small"])
def test_models_with_and_without_an_input_size_are_counted_by_name(name: str) -> None:
    found = measure(name, None, "torch")
    assert found["params"] == sum(parameter.numel() for parameter in create_model(name).parameters())
    assert found["macs"] > 1e9


@pytest.mark.parametrize("name", ["pvt_small", "dw_conv_nano", "timm:resnet10t"])
def test_grey_images_are_counted_as_such(name: str) -> None:
    """The first convolution is a third; nothing else changes."""
    colour, grey = (model_cost(create_model(name, in_chans=channels), (64, 64)).macs for channels in (3, 1))
    with torch.device("meta"):
        model = create_model(name)
        key = timm.create_model("resnet10t").default_cfg["first_conv"] if name.startswith("timm") else None
        first = model.get_submodule(key) if key else next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    side = 64 // first.stride[0]
    assert colour - grey == 2 * first.out_channels * first.kernel_size[0] ** 2 * side**2


def test_the_papers_counter_refuses_fused_models() -> None:
    fused = models.fuse(create_model("dw_conv_nano").eval())
    with pytest.raises(UserError, match=r"count before models\.fuse"):
        model_cost(fused, (64, 64), counter="paper")


def test_the_quickstart_counts_what_it_trains(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    """With changes of the command line, too."""
    seen: dict = {}
    tables = []
    monkeypatch.setattr(quickstart, "train", lambda config: seen.setdefault(config.model.name, config) and _Result())
    monkeypatch.setattr(quickstart, "read_curve", lambda *_: None)
    monkeypatch.setattr(quickstart, "draw_curves", lambda *_: None)
    monkeypatch.setattr(quickstart, "as_table", lambda rows: tables.append(rows) or "")
    monkeypatch.setattr("sys.argv", ["quickstart.py", "--output", str(tmp_path), "model.embed_dim=64", "model.se=true"])
    quickstart.main()
    for (_, cost, _), config in zip(tables[0], seen.values(), strict=True):
        built = models.build_model(config.model)
        assert config.model.embed_dim == 64
        assert cost.params == sum(parameter.numel() for parameter in built.parameters())


class _Result:
    dataset, eval_images, epochs = "MNIST-5k", 1000, 1
