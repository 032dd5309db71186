"""The recipe's optimiser and schedule against values computed another way: timm's classes with Swin's arguments."""

import itertools
import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from engine.config import load_config
from engine.optim import build_optimizer, build_schedule, effective_rates
from engine.schema import TrainConfig
from models import create_model
from models.errors import UserError
from models.mixers import list_mixers

STEPS = 1251  # of an ImageNet epoch at batch 1024: 1,281,167 images, the last incomplete batch dropped
# PAPER: parameters that decay, of the networks whose batch norms make the rule visible.
DECAYED = {"dw_conv_tiny": 24_102_720, "d_dw_conv_tiny": 50_843_136, "i_dynamic_tiny": 26_156_544}


@pytest.fixture(scope="module")
def small():
    return create_model("swin_nano", num_classes=10, img_size=32)


def test_rate_of_each_step_is_swins(small):
    optimizer = build_optimizer(small, TrainConfig())
    schedule = build_schedule(optimizer, TrainConfig(), STEPS)
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=5e-4 * 1024 / 512)
    swin = CosineLRScheduler(
        other,
        t_initial=300 * STEPS,
        lr_min=5e-6 * 1024 / 512,
        warmup_lr_init=5e-7 * 1024 / 512,
        warmup_t=20 * STEPS,
        cycle_limit=1,
        t_in_epochs=False,
    )
    for step in [*range(0, 300 * STEPS, 997), 20 * STEPS - 1, 20 * STEPS, 300 * STEPS - 1]:
        schedule.step_update(step)
        swin.step_update(step)
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == {other.param_groups[0]["lr"]}
        if step < 20 * STEPS:
            expected = 1e-6 + (1e-3 - 1e-6) * step / (20 * STEPS)
        else:
            expected = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / (300 * STEPS)))
        assert rates.pop() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch", [512, 1024, 2048])
@pytest.mark.parametrize("name", ["dw_conv_tiny", "swin_base"])
def test_all_three_rates_of_a_config_follow_the_batch(small, repo, name: str, batch: int) -> None:
    """Swin's rule, per 512 images: 5e-4, from 5e-7 over 20 of 300 epochs, cosine towards 5e-6."""
    config = load_config(repo / "configs" / "imagenet" / f"{name}.yaml", [f"train.batch_size={batch}"], world_size=1)
    optimizer = build_optimizer(small, config.train)
    schedule = build_schedule(optimizer, config.train, 10)
    factor, rates = batch / 512, []
    for step in (0, 200, 2999):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    top, end = 5e-4 * factor, 5e-6 * factor
    peak = end + 0.5 * (top - end) * (1 + math.cos(math.pi * 200 / 3000))
    last = end + 0.5 * (top - end) * (1 + math.cos(math.pi * 2999 / 3000))
    assert rates == pytest.approx([5e-7 * factor, peak, last], rel=1e-9)
    said = effective_rates(config.train)
    assert all(f"{value:g}" in said for value in (5e-7 * factor, top, end))


def test_table_5_is_trained_at_a_constant_rate(small, repo) -> None:
    for path in sorted((repo / "configs" / "finetune384").glob("*_w*[0-9].yaml")):
        train = load_config(path, world_size=1).train
        optimizer = build_optimizer(small, train)
        schedule = build_schedule(optimizer, train, 10)
        for step in (0, 1, 150, 299):
            schedule.step_update(step)
            assert {group["lr"] for group in optimizer.param_groups} == {1e-5}, path.name
        assert (train.epochs, train.weight_decay) == (30, 1e-8)


def test_linear_scaling_rule(small):
    train = TrainConfig(lr=5e-4, lr_batch=512, batch_size=2048, min_lr=1e-6, warmup_lr=1e-7)
    optimizer = build_optimizer(small, train)
    schedule = build_schedule(optimizer, train, 10)
    schedule.step_update(0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-7)
    schedule.step_update(200)
    assert optimizer.param_groups[0]["lr"] < 2e-3
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(2e-3)


@pytest.mark.parametrize("name", ["swin_nano", "dw_conv_nano", "d_dw_conv_nano", "i_dynamic_nano"])
def test_groups_follow_swins_rule(name):
    model = create_model(name, num_classes=10, img_size=32)
    optimizer = build_optimizer(model, TrainConfig())
    assert type(optimizer) is torch.optim.AdamW
    decay = {g["weight_decay"]: {id(p) for p in g["params"]} for g in optimizer.param_groups}
    assert set(decay) == {0.0, 0.05}
    for key, parameter in model.named_parameters():  # Swin: 1-D, *.bias and the named keywords do not decay
        free = parameter.ndim == 1 or key.endswith(".bias") or "relative_position_bias_table" in key
        assert id(parameter) in decay[0.0 if free else 0.05], key
    assert sum(len(ids) for ids in decay.values()) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.999), 1e-8, 1e-3)


@pytest.mark.parametrize("name", DECAYED)
def test_decayed_parameters_of_the_paper_models(name):
    with torch.device("meta"):
        model = create_model(name)
    groups = build_optimizer(model, TrainConfig()).param_groups
    assert sum(p.numel() for g in groups if g["weight_decay"] for p in g["params"]) == DECAYED[name]


@pytest.mark.parametrize("mixer", list_mixers())
def test_gains_and_biases_of_no_mixer_decay(mixer: str) -> None:
    """PAPER section 2, for 0 and 1 dimensions; added numbers (relative position) are named by the mixer itself."""
    args = {"mixer_args": {"form": "relative_position"}} if mixer == "conv_attention" else {}
    model = create_model("dw_conv_nano", mixer=mixer, img_size=32, **args)
    optimizer = build_optimizer(model, TrainConfig())
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    added = ("relative_position_bias_table", "beta", "bias")
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and not name.endswith(added)), name


def test_layer_decay_scales_each_layers_rate(small):
    train = TrainConfig(layer_decay=0.5, warmup_epochs=0, epochs=2)
    optimizer = build_optimizer(small, train)
    build_schedule(optimizer, train, 10).step_update(0)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    names = dict(small.named_parameters())
    assert rates[id(names["head.weight"])] == pytest.approx(1e-3)
    blocks = [rates[id(names[f"stages.{s}.blocks.{b}.mlp.fc1.weight"])] for s, b in [(0, 0), (1, 0), (2, 0), (2, 1)]]
    assert all(2 * first == pytest.approx(second) for first, second in itertools.pairwise(blocks))
    assert rates[id(names["patch_embed.proj.weight"])] == min(rates.values())


@pytest.mark.parametrize("optimizer", ["sgd", "lamb", "lion", "adafactor", "nadamw", "adan"])
@pytest.mark.parametrize("schedule", ["step", "poly", "tanh", "constant", "multistep", "wsd"])
def test_timms_others_are_options(small, optimizer, schedule):
    train = TrainConfig(
        lr_batch=None,
        optimizer=optimizer,
        schedule=schedule,
        epochs=10,
        warmup_epochs=1,
        schedule_args={"decay_epochs": 2} if schedule in ("step", "wsd") else {},
    )
    built = build_optimizer(small, train)
    plan = build_schedule(built, train, 5)
    plan.step_update(0)
    assert built.param_groups[0]["lr"] == pytest.approx(train.warmup_lr)
    plan.step_update(6)
    assert built.param_groups[0]["lr"] > train.warmup_lr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamx"}, "train.optimizer: adamx is unknown; the nearest valid one is adam"),
        ({"optimizer_args": {"nothing": 1}}, "train.optimizer_args: adamw refuses"),
        ({"schedule_args": {"nothing": 1}}, "train.schedule_args: cosine refuses"),
        ({"warmup_epochs": 300}, "train.warmup_epochs: 300 is not shorter than train.epochs 300"),
    ],
)
def test_bad_choices_are_refused(small, change, message):
    train = TrainConfig(**change)
    with pytest.raises(UserError, match=message):
        build_schedule(build_optimizer(small, train), train, 10)
