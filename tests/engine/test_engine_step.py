"""One optimiser step against the same step written out with plain torch and timm."""

import copy

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from data import Batch, build_mixup
from engine.batchnorm import BatchNormStats
from engine.build import build_state
from engine.config import Config
from engine.distributed import World
from engine.step import batch_loss, train_step
from models import create_model

WORLD = World(0, 1, torch.device("cpu"))
SETTINGS = {"epochs": 10, "warmup_epochs": 1, "batch_size": 8, "lr": 1e-2, "warmup_lr": 1e-3, "lr_batch": None}


def make_config(mixup=False, **train):
    data = {"format": "mnist5k", "mixup": {} if mixup else {"mixup": 0.0, "cutmix": 0.0}}
    return Config(
        model={"name": "swin_nano", "num_classes": 10, "img_size": 32},
        data=data,
        train=SETTINGS | train,
        output="unused",
    )


def make_batches(count, size, seed=1):
    draw = torch.Generator().manual_seed(seed)
    shape = (count * size, 3, 32, 32)
    images, targets = torch.randn(shape, generator=draw), torch.randint(10, (count * size,), generator=draw)
    parts = [slice(i * size, (i + 1) * size) for i in range(count)]
    return [Batch(images[p], targets[p], torch.arange(count * size)[p], position=p.start) for p in parts]


def make_state(config, name="swin_nano", steps=5):
    torch.manual_seed(0)
    return build_state(create_model(name, num_classes=10, img_size=32, drop_path_rate=0.0), config, WORLD, steps)


def mix_of(config):
    return build_mixup(config.data, 10)


def test_loss_is_timms_label_smoothing_without_mixup():
    config = make_config()
    state, (batch,) = make_state(config), make_batches(1, 8)
    loss = batch_loss(state, batch, mix_of(config), config.train, WORLD)
    expected = LabelSmoothingCrossEntropy(0.1)(state.model(batch.images), batch.targets)
    torch.testing.assert_close(loss, expected)


def test_loss_with_mixup_is_timms_soft_target_loss():
    config = make_config(mixup=True)
    state, (batch,) = make_state(config), make_batches(1, 8)
    images, targets = mix_of(config)(batch.images, batch.targets, (0, 0, 0))
    loss = batch_loss(state, batch, mix_of(config), config.train, WORLD)
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(state.model(images), targets))
    assert not torch.equal(images, batch.images)


@pytest.mark.parametrize("parts", [1, 4])
def test_steps_equal_plain_torch(parts):
    """Three steps: rate of the step, clipping at 5, decoupled decay; accumulation changes nothing but rounding."""
    config = make_config(accumulation=parts, clip_grad=0.5)
    state = make_state(config)
    plain = copy.deepcopy(state.model)
    free = [p for n, p in plain.named_parameters() if p.ndim == 1 or n.endswith("bias") or "bias_table" in n]
    decayed = [p for p in plain.parameters() if not any(p is q for q in free)]
    groups = [{"params": free, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.05}]
    other = torch.optim.AdamW(groups, lr=1.0)
    for step in range(3):
        batches = make_batches(parts, 8 // parts, seed=step)
        result = train_step(state, batches, mix_of(config), config.train, WORLD).read()
        state.progress.step += 1
        images, targets = torch.cat([b.images for b in batches]), torch.cat([b.targets for b in batches])
        loss = LabelSmoothingCrossEntropy(0.1)(plain(images), targets)
        other.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in other.param_groups:
            group["lr"] = 1e-3 + (1e-2 - 1e-3) * step / 5
        other.step()
        assert result.taken and result.loss == pytest.approx(float(loss), rel=1e-5)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)
        assert result.lr == pytest.approx(other.param_groups[0]["lr"])
        for (name, ours), theirs in zip(state.model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_average_of_weights_and_statistics():
    """EMA: the first step copies, then decay * average + (1 - decay) * new, for BN's statistics as for weights."""
    config = make_config(ema_decay=0.75)
    state = make_state(config, "dw_conv_nano")
    expected = None
    for step in range(4):
        train_step(state, make_batches(1, 8, seed=step), mix_of(config), config.train, WORLD)
        state.progress.step += 1
        new = {k: v.clone() for k, v in state.model.state_dict().items()}
        if expected is None:
            expected = new
        expected = {k: 0.75 * expected[k] + 0.25 * v if v.is_floating_point() else v for k, v in new.items()}
    average = state.ema.module.state_dict()
    assert any("running_var" in key for key in average)
    for key, value in expected.items():
        torch.testing.assert_close(average[key], value, msg=lambda m, k=key: f"{k}: {m}")
    key = next(k for k in average if k.endswith("num_batches_tracked"))
    assert int(average[key]) == 4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns(precision):
    config = make_config(precision=precision)
    state, batches = make_state(config, "dw_conv_nano"), make_batches(1, 8)
    losses = []
    for _ in range(8):
        losses.append(train_step(state, batches, mix_of(config), config.train, WORLD).read().loss)
        state.progress.step += 1
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    assert state.scaler.is_enabled() == (precision == "fp16")


@pytest.mark.parametrize("fused", [False, True])  # true: the device decides, and the host does not know
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_batch_that_is_not_finite_leaves_no_trace(precision, fused):
    config = make_config(precision=precision, ema_decay=0.9, optimizer_args={"fused": fused})
    state, batches = make_state(config, "dw_conv_nano"), make_batches(1, 8)
    train_step(state, batches, mix_of(config), config.train, WORLD)
    state.progress.step += 1
    saved = copy.deepcopy(state.to_save())
    (bad,) = make_batches(1, 8)
    bad.images[3, 0, 0, 0] = float("inf")
    result = train_step(state, [bad], mix_of(config), config.train, WORLD).read()
    assert result.bad and not result.taken
    after = state.to_save()
    for part in ("model", "ema"):
        assert all(torch.equal(after[part][k], v) for k, v in saved[part].items())
    for key, moments in saved["optimizer"]["state"].items():
        assert all(torch.equal(after["optimizer"]["state"][key][k], v) for k, v in moments.items())
    assert train_step(state, batches, mix_of(config), config.train, WORLD).read().taken


def test_overflow_of_fp16_gradients_is_not_a_fault():
    """The scale is found by overflowing: such a step is skipped, the scale halves, and nothing is counted as bad."""
    config = make_config(precision="fp16")
    state, batches = make_state(config), make_batches(1, 8)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    result = train_step(state, batches, mix_of(config), config.train, WORLD).read()
    assert not result.taken and not result.bad
    assert state.scaler.get_scale() == 2.0**39


def test_randomness_is_a_function_of_the_step():
    """Stochastic depth draws the same at a step, whatever was drawn before, and otherwise at another step."""
    config = make_config()
    torch.manual_seed(0)
    model = create_model("dw_conv_nano", num_classes=10, img_size=32, drop_path_rate=0.5)
    state = build_state(model, config, WORLD, 5)
    saved = copy.deepcopy(state.to_save())

    def loss_at(step, noise):
        state.restore(copy.deepcopy(saved))
        state.progress.step = step
        torch.rand(noise)
        return train_step(state, make_batches(1, 8), mix_of(config), config.train, WORLD).read().loss

    assert loss_at(3, 0) == loss_at(3, 17)
    assert loss_at(3, 0) != loss_at(4, 0)


def test_statistics_can_be_put_back():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = copy.deepcopy(model.state_dict())
    statistics = BatchNormStats(model)
    statistics.snapshot()
    model(torch.full((2, 3, 4, 4), float("nan")))
    assert not torch.isfinite(model[1].running_mean).all()
    statistics.restore()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
