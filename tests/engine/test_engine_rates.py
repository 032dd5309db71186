"""Optimisers and rates piece by piece: arguments, messages, the classifier's groups, steps that may be skipped."""

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch._subclasses import FakeTensorMode

from engine.optim import (
    _scale_head,
    build_optimizer,
    build_schedule,
    effective_rates,
    learning_rate,
    obeys_flag,
    step_unless,
)
from engine.schema import TrainConfig
from models import create_model
from models.errors import UserError


@pytest.fixture(scope="module")
def small():
    return create_model("swin_nano", num_classes=10, img_size=32)


def refused(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


def test_what_timm_refuses_is_told_in_its_words(small) -> None:
    with pytest.raises(TypeError) as theirs:
        create_optimizer_v2(small, opt="AdamW", lr=0.1, nothing=1)
    told = " ".join(str(theirs.value).split())
    train = TrainConfig(optimizer="AdamW", optimizer_args={"nothing": 1})
    message = f"train.optimizer_args: AdamW refuses its arguments: {told}"
    assert refused(lambda: build_optimizer(small, train)) == message
    train = TrainConfig(schedule_args={"nothing": 1})
    with pytest.raises(TypeError) as theirs:
        create_scheduler_v2(build_optimizer(small, train), sched="cosine", nothing=1)
    told = " ".join(str(theirs.value).split())
    message = f"train.schedule_args: cosine refuses its arguments: {told}"
    assert refused(lambda: build_schedule(build_optimizer(small, train), train, 10)) == message
    message = "train.optimizer: Adamx is unknown; the nearest valid one is adam"
    assert refused(lambda: build_optimizer(small, TrainConfig(optimizer="Adamx"))).startswith(message)


@pytest.mark.parametrize(
    ("warm", "cool", "words"),
    [
        (10, 0, "10 is not shorter than train.epochs 10; the nearest valid is 9"),
        (7.5, 2.5, "7.5 is not shorter than train.epochs 10 without cooldown_epochs 2.5; the nearest valid is 6.5"),
    ],
)
def test_a_warm_up_leaves_an_epoch_to_train(small, warm: float, cool: float, words: str) -> None:
    train = TrainConfig(epochs=10, warmup_epochs=warm, cooldown_epochs=cool)
    optimizer = build_optimizer(small, train)
    assert refused(lambda: build_schedule(optimizer, train, 10)) == f"train.warmup_epochs: {words}"
    build_schedule(optimizer, TrainConfig(epochs=10, warmup_epochs=warm - 1, cooldown_epochs=cool), 10)


@pytest.mark.parametrize("prefix", [False, True])
def test_the_rate_of_a_cooldown_is_the_lowest(small, prefix: bool) -> None:
    """Of 10 epochs the last 2; the cosine takes 8, or 7 after a warm-up before it. Half its way is half the rate."""
    low, high = 2e-5, 4e-3  # twice what is given: 1024 images for 512
    train = TrainConfig(
        epochs=10, warmup_epochs=1, cooldown_epochs=2, lr=2e-3, min_lr=1e-5, warmup_prefix=prefix, weight_decay=0.125
    )
    optimizer = build_optimizer(small, train)
    schedule = build_schedule(optimizer, train, 100)
    for step, wanted in ((450 if prefix else 400, (low + high) / 2), (800, low), (999, low)):
        schedule.step_update(step)
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        assert rate == pytest.approx(wanted, rel=1e-9), step
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.125}


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("adamw", {"betas": (0.5, 0.75), "eps": 1e-6}, {"betas": (0.5, 0.75), "eps": 1e-6}),
        ("AdamW", {"eps": 1e-6, "optimizer_args": {"eps": 1e-5}}, {"betas": (0.9, 0.999), "eps": 1e-5}),
        ("sgd", {"momentum": 0.625}, {"momentum": 0.625, "nesterov": True}),
        ("momentum", {"momentum": 0.5, "optimizer_args": {"dampening": 0.25}}, {"momentum": 0.5, "dampening": 0.25}),
    ],
)
def test_arguments_reach_the_optimiser(small, name: str, changes: dict, wanted: dict) -> None:
    for group in build_optimizer(small, TrainConfig(optimizer=name, **changes)).param_groups:
        assert {key: group[key] for key in wanted} == wanted


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_adam_is_fused_unless_another_kind_is_asked_for(device: str) -> None:
    with FakeTensorMode():
        model = torch.nn.Linear(2, 2, device=device)

        def fused(name: str, **arguments: bool) -> bool:
            built = build_optimizer(model, TrainConfig(optimizer=name, optimizer_args=arguments))
            return {bool(group.get("fused")) for group in built.param_groups} == {True}

        assert [fused(name) for name in ("adamw", "adam", "sgd", "nadam")] == [True, True, False, False]
        assert not any(fused("adamw", **{key: True}) for key in ("foreach", "differentiable"))
        assert not fused("adamw", fused=False) and fused("sgd", fused=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "from 1e-06 over 20 epochs to 0.001, cosine to 1e-05 (batch 1024 / 512 times the values given)"),
        ({"lr_batch": None, "warmup_epochs": 0}, "0.0005, cosine to 5e-06"),
        ({"lr_batch": None, "warmup_epochs": 2.5, "schedule": "constant"}, "from 5e-07 over 2.5 epochs to 0.0005"),
        (
            {"lr_batch": 256, "batch_size": 512, "warmup_epochs": 0, "schedule": "poly", "head_lr_scale": 2.5},
            "0.001, poly to 1e-05 (batch 512 / 256 times the values given); 2.5 times that for the classifier",
        ),
    ],
)
def test_rates_are_said_as_they_are(changes: dict, said: str) -> None:
    assert effective_rates(TrainConfig(**changes)) == said


@pytest.mark.parametrize(
    ("groups", "rate"),
    [
        ([(0.5, 5.0), (0.125, 1.0), (0.25, 2.0)], 0.125),
        ([(0.0625, 0.125), (0.125, 0.25), (0.03125, 0.0625)], 0.5),  # no layer at the full rate
        ([(0.375, None), (0.5, 4.0)], 0.375),
        ([(0.75, 3.0), (0.125, 0.5)], 0.25),
        ([(0.3, 2.0), (0.125, 1.0), (0.3, 0.1)], 0.125),  # rounded the least, whatever the others say
    ],
)
def test_the_rate_of_a_step_is_that_of_the_schedule(groups: list[tuple[float, float | None]], rate: float) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in groups]
    optimizer = torch.optim.SGD(
        [
            {"params": [weight], "lr": lr} | ({} if scale is None else {"lr_scale": scale})
            for weight, (lr, scale) in zip(weights, groups, strict=True)
        ]
    )
    assert learning_rate(optimizer) == rate


def test_a_step_is_made_unless_it_is_to_be_skipped() -> None:
    """AdamW's first step moves a weight by its rate, against the sign of its gradient."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.25, weight_decay=0.0, fused=True)
    weight.grad = torch.tensor([3.0, -2.0])
    for skip, wanted in ((True, [1.0, 1.0]), (False, [0.75, 1.25])):
        step_unless(optimizer, torch.tensor(skip))
        assert weight.tolist() == pytest.approx(wanted)
        assert not hasattr(optimizer, "grad_scale") and not hasattr(optimizer, "found_inf")


def test_all_groups_must_be_fused_for_a_step_to_be_skipped() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "fused": fused} for fused in (True, False)]
    assert obeys_flag(torch.optim.AdamW(groups[:1])) and not obeys_flag(torch.optim.AdamW(groups))


def test_only_the_classifier_has_another_rate() -> None:
    """Also of a classifier of two modules, and of one whose groups hold nothing else."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("body", "head", "head_dist", "header")})
    model.default_cfg = {"classifier": ("head", "head_dist")}
    optimizer = torch.optim.SGD(
        [
            {"params": [model["body"].weight, model["head"].weight, model["header"].weight], "lr_scale": 0.5},
            {"params": [model["body"].bias, model["header"].bias, model["head_dist"].bias], "weight_decay": 0.0},
            {"params": [model["head"].bias, model["head_dist"].weight], "lr_scale": 2.0},
        ],
        lr=0.1,
        weight_decay=0.25,
    )
    _scale_head(optimizer, model, 3.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (g.get("lr_scale"), g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found == {
        **dict.fromkeys(("body.weight", "header.weight"), (0.5, 0.25)),
        **dict.fromkeys(("body.bias", "header.bias"), (None, 0.0)),
        **{"head.weight": (1.5, 0.25), "head_dist.bias": (3.0, 0.0)},
        **dict.fromkeys(("head.bias", "head_dist.weight"), (6.0, 0.25)),
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 8
