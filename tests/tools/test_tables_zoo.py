"""The README's table of the zoo comes from configs, costs and records."""

import pytest

from models.cost import Cost
from tools.tables import render as zoo
from tools.tables.loading import load_tables
from tools.tables.results import Record

CONFIG = "configs/imagenet/i_dynamic_tiny.yaml"


def test_a_row_has_costs_of_both_counters_and_the_papers_accuracy() -> None:
    assert zoo.row_of(load_tables(), [], CONFIG) == [
        "`i_dynamic_tiny`",
        "26,244,280",
        "4.3041 G + 0.0701 G window sum",
        "4.3648 G",
        "81.8",
        "not run",
        "none",
    ]


def test_released_weights_are_linked() -> None:
    host = "https://github.com/Atten4Vis/DemystifyLocalViT/releases/download/prerelease"
    assert zoo.row_of(load_tables(), [], CONFIG.replace("i_dynamic", "dw_conv"))[-1] == (
        f"[released]({host}/dwnet_tiny_224.pth)"
    )


def test_a_measured_accuracy_takes_the_place_of_not_run() -> None:
    record = Record.model_construct(config=CONFIG, task="classification", kind="trained", metrics={"top1": 81.5})
    assert zoo.row_of(load_tables(), [record], CONFIG)[-2] == "81.50"


def test_families_stand_in_order_with_the_smaller_model_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "count", lambda config, counter: Cost(1, 1))  # the order does not hang on the costs
    lines = zoo.zoo_table(load_tables(), [], "configs/imagenet").splitlines()[2:]
    names = [line.split("`")[1] for line in lines]
    families = ("swin", "dw_conv", "d_dw_conv", "i_dynamic")
    assert names == [f"{family}_{size}" for family in families for size in ("tiny", "base")]
