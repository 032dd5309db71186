"""Batch normalisation over ranks: synchronised, or with running statistics that are averaged."""

import copy

import torch
from engine_ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine.batchnorm import BatchNormStats, CpuSyncBatchNorm, batch_warning, synchronise
from engine.distributed import World
from models import create_model

IMAGES = torch.randn(8, 3, 6, 5, generator=torch.Generator().manual_seed(1)) * 3 + 100  # a mean far from 0


def small_network():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.weight)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


def synchronised_step(world, shares):
    """Gradients and statistics of a rank that has shares[rank] of the images."""
    model = synchronise(small_network(), world.device)
    network = DistributedDataParallel(model, broadcast_buffers=False)
    share = IMAGES.split(shares)[world.rank]
    loss = network(share).square().sum() * world.size / len(IMAGES)
    loss.backward()
    return [p.grad for p in model.parameters()], dict(model.state_dict()), type(model[1])


def check_synchronised(ranks, shares):
    whole = small_network()
    (whole(IMAGES).square().sum() / len(IMAGES)).backward()
    for gradients, state, kind in on_ranks(ranks, synchronised_step, shares):
        assert kind is CpuSyncBatchNorm
        for parameter, gradient in zip(whole.parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-4)
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-5)


def test_two_ranks_with_sync_bn_are_one_batch():
    check_synchronised(2, [4, 4])


def half_precision(world):
    """What comes out of two images of bf16 on each rank, and the gradient."""
    x = (IMAGES[2 * world.rank : 2 * world.rank + 2]).bfloat16().requires_grad_()
    norm = synchronise(nn.BatchNorm2d(x.shape[1]), torch.device("cpu"))
    y = norm(x)
    y.square().sum().backward()
    return y.detach(), x.grad


def test_sync_bn_takes_half_precision_as_the_batch_norm_of_one_rank_does():
    x = IMAGES[:4].bfloat16().requires_grad_()
    y = nn.BatchNorm2d(x.shape[1])(x)
    y.square().sum().backward()
    found = on_ranks(2, half_precision)
    for both, wanted in zip(zip(*found, strict=True), (y.detach(), x.grad), strict=True):
        assert both[0].dtype == torch.bfloat16
        torch.testing.assert_close(torch.cat(both), wanted, rtol=2e-2, atol=2e-2)


def test_ranks_may_hold_different_numbers_of_images():
    check_synchronised(3, [5, 2, 1])


def averaged(world):
    model = create_model("dw_conv_nano", num_classes=4, img_size=32)
    torch.manual_seed(world.rank)
    model.train()(torch.randn(4, 3, 32, 32))
    own = copy.deepcopy(model.state_dict())
    BatchNormStats(model).average(world)
    return own, dict(model.state_dict())


def test_running_statistics_become_their_mean():
    (own0, new0), (own1, new1) = on_ranks(2, averaged)
    changed = 0
    for key in new0:
        assert torch.equal(new0[key], new1[key])
        if key.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(new0[key], (own0[key] + own1[key]) / 2)
            changed += not torch.equal(own0[key], own1[key])
        else:
            assert torch.equal(new0[key], own0[key])
    assert changed > 10


def test_synchronising_keeps_the_weights_and_the_centring_norm():
    model = create_model("dw_conv_nano", num_classes=4, img_size=32, norm="ccbn")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    changed = synchronise(model, torch.device("cpu"))
    assert {k: v.shape for k, v in changed.state_dict().items()} == {k: v.shape for k, v in before.items()}
    assert not any(type(m) in (nn.BatchNorm2d, nn.SyncBatchNorm) for m in changed.modules())
    images = torch.randn(2, 3, 32, 32)
    reference = create_model("dw_conv_nano", num_classes=4, img_size=32, norm="ccbn")
    reference.load_state_dict(before)
    torch.testing.assert_close(changed.eval()(images), reference.eval()(images))


def test_warning_when_the_batch_is_not_the_recipes():
    world = World(0, 8, torch.device("cpu"))
    model = create_model("dw_conv_nano")
    assert batch_warning(model, 128, world, 128) is None
    assert "16 images at a time where the recipe has 128" in batch_warning(model, 16, world, 128)
    assert batch_warning(model, 16, world, None) is None
    assert batch_warning(create_model("swin_nano"), 16, world, 128) is None
    assert batch_warning(synchronise(model, torch.device("cpu")), 16, world, 128) is None
