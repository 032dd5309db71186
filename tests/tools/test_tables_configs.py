"""The configs behind the rows: short, buildable, with the change that the row is about, and proven costs."""

from pathlib import Path

import pytest
import torch

from models import build_model
from models.cost import model_cost
from models.errors import UserError
from models.layers import CenteringBatchNorm2d
from models.mixers.static_window import StaticWindow
from tools.tables.costs import config_exists, count, dense_costs, row_config
from tools.tables.loading import ROOT, load_expected_costs, load_tables

TABLES = load_tables()
EXPECTED_COSTS = load_expected_costs()
DENSE = ("detection", "segmentation")
CONFIGS = sorted(
    {config for table in TABLES for row in table.rows if (config := row.config_of("classification")) is not None}
)
OWN = sorted(path for kind in ("table*", "figure*") for path in (ROOT / "configs" / "ablations").glob(f"{kind}/*.yaml"))


def built(config: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(row_config(config).model)


def named(config: str) -> list[str]:
    return [type(module).__name__ for module in built(config).modules()]


@pytest.mark.parametrize(
    "config", [config for config in EXPECTED_COSTS if not config.endswith(".py") and "compar" not in config]
)
def test_every_proof_of_our_models_holds(config: str) -> None:
    """The comparison models are counted by the test of `make_tables --check`, which covers all rows."""
    proof = EXPECTED_COSTS[config]
    cost = count(config, proof.counter)
    params, macs = cost.params, cost.macs
    for quantity, number in proof.expected().items():
        assert number.agrees({"params": params, "flops": macs}[quantity]), (quantity, params, macs)


def test_every_dense_row_was_counted_and_has_a_proof() -> None:
    rows = {row.config_of(task) for t in TABLES if t.table in ("3", "11") for row in t.rows for task in DENSE}
    assert rows == set(dense_costs()) == {config for config in EXPECTED_COSTS if config.endswith(".py")}
    for config, cost in dense_costs().items():
        proof = EXPECTED_COSTS[config].expected()
        assert proof["params"].agrees(cost["params"])
        assert proof["flops"].agrees(cost["macs"])


def test_every_config_of_a_row_is_in_the_checkout() -> None:
    dense = [row.config_of(task) for t in TABLES if t.table in ("3", "11") for row in t.rows for task in DENSE]
    assert [config for config in [*CONFIGS, *dense] if not config_exists(config)] == []


def test_every_ablation_config_is_the_config_of_a_row() -> None:
    files = {config.split()[0] for config in CONFIGS}
    assert [str(path.relative_to(ROOT)) for path in OWN if str(path.relative_to(ROOT)) not in files] == []


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_an_ablation_is_at_most_ten_lines_on_an_imagenet_config(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 10
    assert any(line.startswith("base: ../../imagenet/") for line in lines)


def test_runs_of_different_rows_go_to_different_folders() -> None:
    outputs = {config: str(row_config(config).output) for config in CONFIGS if "comparison.yaml" not in config}
    assert len(set(outputs.values())) == len(outputs)


def test_an_ablation_changes_the_model_and_nothing_else() -> None:
    for path in OWN:
        if path.parent.name == "table13":
            continue  # by the recipes of their own authors, below
        config, base = row_config(str(path.relative_to(ROOT))), row_config("configs/imagenet/swin_tiny.yaml")
        assert (config.train, config.data, config.eval) == (base.train, base.data, base.eval), path


def test_table_13_is_trained_by_the_recipes_of_its_own_authors() -> None:
    """Twins' and VOLO's releases: rates, warm-up, 300 epochs and 10 at the end rate; a baseline as its variants."""
    for family, lr, warm, clip, depth in (("svt_small", 1e-3, 5, 5.0, 0.2), ("volo_d1", 1.6e-3, 20, None, 0.1)):
        for path in (ROOT / "configs" / "ablations" / "table13").glob(f"{family}*.yaml"):
            config = row_config(str(path.relative_to(ROOT)))
            train = config.train
            assert (train.lr, train.warmup_lr, train.min_lr, train.lr_batch) == (lr, 1e-6, 1e-5, None), path
            assert (train.warmup_epochs, train.epochs, train.cooldown_epochs) == (warm, 310, 10), path
            assert (train.clip_grad, config.model.drop_path_rate) == (clip, depth), path
            assert config.data.mixup.enabled == (family == "svt_small"), path


def test_static_swin_has_weights_for_each_window() -> None:
    own = [
        m.weight.shape[0]
        for m in built("configs/ablations/table4/static_swin.yaml").modules()
        if isinstance(m, StaticWindow)
    ]
    shared = built("configs/ablations/table10/static_swin_shared.yaml")
    assert own == [64] * 2 + [16] * 2 + [4] * 6 + [1] * 2
    assert {m.weight.shape[0] for m in shared.modules() if isinstance(m, StaticWindow)} == {1}


@pytest.mark.parametrize(
    "config", ["configs/ablations/table6/swin_se.yaml", "configs/ablations/table6/dw_conv_se.yaml"]
)
def test_se_stands_in_every_block(config: str) -> None:
    assert named(config).count("SEModule") == 12


def test_extra_depthwise_stands_in_every_block() -> None:
    assert named("configs/ablations/table12/dw_conv_dw.yaml").count("DepthwiseConv") == 24
    with_se = named("configs/ablations/table12/dw_conv_dw_se.yaml")
    assert (with_se.count("DepthwiseConv"), with_se.count("SEModule")) == (24, 12)


@pytest.mark.parametrize(("config", "norms"), [("swin_cc_bn", 24), ("dw_conv_cc_bn", 48)])
def test_cc_bn_replaces_every_norm_of_the_blocks(config: str, norms: int) -> None:
    model = built(f"configs/ablations/table9/{config}.yaml")
    assert sum(isinstance(module, CenteringBatchNorm2d) for module in model.modules()) == norms


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 16, 48, 96])
def test_figure_3_has_the_channels_per_head_that_it_says(channels: int) -> None:
    model = built(f"configs/ablations/figure3/channels_{channels}.yaml")
    for stage in model.stages:
        for block in stage.blocks:
            assert block.mixer.qkv.in_features // block.mixer.num_heads == channels
    assert model_cost(model).params > 28_000_000


@pytest.mark.parametrize("family", ["swin", "dw_conv", "d_dw_conv", "i_dynamic"])
@pytest.mark.parametrize("window", [7, 12])
def test_fine_tuning_at_384(family: str, window: int) -> None:
    """Section 3.4 and appendix E: 30 epochs, lr 1e-5, weight decay 1e-8, stochastic depth 0.1."""
    config = row_config(f"configs/finetune384/{family}_tiny_w{window}.yaml")
    assert (config.model.img_size, config.model.window_size, config.model.drop_path_rate) == (384, window, 0.1)
    assert (config.train.epochs, config.train.lr, config.train.weight_decay) == (30, 1e-5, 1e-8)
    assert str(config.train.init_checkpoint) == f"runs/{family}_tiny/last.safetensors"
    assert str(row_config(f"configs/imagenet/{family}_tiny.yaml").output) == f"runs/{family}_tiny"
    with torch.device("meta"):
        logits = build_model(config.model)(torch.empty(1, 3, 384, 384))
    assert logits.shape == (1, 1000)


def test_a_wrong_config_of_a_row_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"swin_tinny\.yaml: no such config file.*swin_tiny\.yaml"):
        row_config("configs/imagenet/swin_tinny.yaml")
    with pytest.raises(UserError, match=r"model\.sse: unknown key; the nearest valid one is model\.se"):
        row_config("configs/imagenet/swin_tiny.yaml model.sse=true")
    with pytest.raises(UserError, match="timm has no model 'resnet5000'"):
        count("configs/comparison.yaml model.name=timm:resnet5000", "paper")


def test_se_extra_convolution_and_channel_sharing_are_options_of_any_depthwise_block() -> None:
    for name in ("dw_conv_tiny", "d_dw_conv_tiny", "i_dynamic_tiny"):
        sharing = "mixer_args.groups=4" if name.startswith("i_") else "mixer_args.share_channels=true"
        plain = built(f"configs/imagenet/{name}.yaml")
        shared = built(f"configs/imagenet/{name}.yaml model.{sharing}")
        more = built(f"configs/imagenet/{name}.yaml model.se=true model.extra_dw=true")
        fewer, all_, most = (sum(p.numel() for p in model.parameters()) for model in (shared, plain, more))
        assert fewer < all_ < most, name
        assert shared(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
