"""Which images a rank gets, counted by hand."""

import numpy as np
import pytest

from data.rng import hash64, permutation
from data.sampler import EvalSampler, TrainSampler, epoch_order
from models.errors import UserError


def test_the_order_is_the_permutation_of_seed_and_epoch() -> None:
    order, copies = epoch_order(seed=3, epoch=5, count=11)
    assert order.tolist() == permutation(hash64(3, 5, 0x6F72646572), 11).tolist()
    assert copies.dtype == np.int64 and copies.tolist() == [0] * 11


@pytest.mark.parametrize(("count", "repeats", "block"), [(10, 2, 4), (10, 3, 4), (7, 2, 256), (9, 2, 1), (8, 4, 8)])
def test_copies_of_an_image_share_a_block(count: int, repeats: int, block: int) -> None:
    """Blocks of `block` places; each holds block / repeats images, all of them once before any of them again."""
    single, _ = epoch_order(1, 2, count)
    wanted, copies, used = [], [], 0
    for start in range(0, count, block):
        length = min(block, count - start)
        distinct = (length + repeats - 1) // repeats
        for place in range(length):
            wanted.append(int(single[used + place % distinct]))
            copies.append(place // distinct)
        used += distinct
    found = epoch_order(1, 2, count, repeats, block)
    assert (found[0].tolist(), found[1].tolist()) == (wanted, copies)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_take_turns_by_batches(world_size: int) -> None:
    """29 images, 2 to a batch and rank: what does not fill a batch of every rank is dropped."""
    order, _ = epoch_order(7, 1, 29)
    batches = 29 // (2 * world_size)
    for rank in range(world_size):
        sampler = TrainSampler(29, batch_size=2, rank=rank, world_size=world_size, seed=7)
        sampler.set_epoch(1, 1)
        assert len(sampler) == batches
        keys = list(sampler)
        places = [(batch * world_size + rank) * 2 for batch in range(1, batches)]
        assert [key.position for key in keys] == places
        assert [key.indices.tolist() for key in keys] == [order[place : place + 2].tolist() for place in places]
        assert {(key.seed, key.epoch) for key in keys} == {(7, 1)}
        assert all(key.repeats.tolist() == [0, 0] for key in keys)


def test_a_sampler_begins_with_the_first_batch_of_the_first_epoch() -> None:
    sampler = TrainSampler(4, batch_size=2, rank=0, world_size=1, seed=0)
    keys = list(sampler)
    assert [key.position for key in keys] == [0, 2] and keys[0].epoch == 0


def test_repeats_are_spread_over_blocks_of_256() -> None:
    sampler = TrainSampler(600, batch_size=300, rank=0, world_size=1, seed=4, repeats=2)
    keys = list(sampler)
    order, copies = epoch_order(4, 0, 600, 2, 256)
    assert np.concatenate([key.indices for key in keys]).tolist() == order.tolist()
    assert np.concatenate([key.repeats for key in keys]).tolist() == copies.tolist()
    assert sorted(order[:256].tolist()) == sorted(2 * order[:128].tolist())


def test_too_few_images_are_counted_in_the_message() -> None:
    assert len(TrainSampler(12, batch_size=4, rank=0, world_size=3, seed=0)) == 1
    with pytest.raises(UserError) as caught:
        TrainSampler(11, batch_size=4, rank=0, world_size=3, seed=0)
    assert str(caught.value) == "11 training images do not fill one batch of 4 on each of 3 ranks"


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_evaluation_is_shared_in_order_with_nothing_twice(world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        sampler = EvalSampler(17, batch_size=4, rank=rank, world_size=world_size)
        keys = list(sampler)
        assert len(sampler) == len(keys)
        share = [index for key in keys for index in key.indices.tolist()]
        assert all(len(key.indices) == 4 for key in keys[:-1])
        for key in keys:
            assert (key.position, key.seed, key.epoch) == (key.indices[0], 0, 0)
            assert key.repeats.tolist() == [0] * len(key.indices)
        assert len(share) in (17 // world_size, -(-17 // world_size))
        seen += share
    assert seen == list(range(17))
