"""The order of the data and all random numbers follow from (seed, step)."""

from __future__ import annotations

import torch

from smoothtool.training.order import BatchOrder, draw


def test_an_epoch_holds_every_example_once_when_batches_divide_evenly() -> None:
    order = BatchOrder([list(range(6)), list(range(6, 10))], 2, seed=1)
    assert order.per_epoch == 5
    assert sorted(i for number in range(5) for i in order[number]) == list(range(10))


def test_batches_never_mix_buckets_and_are_always_full() -> None:
    order = BatchOrder([[0, 1, 2], [10]], 4, seed=1)
    for number in range(10):
        batch = order[number]
        assert len(batch) == 4
        assert len({i >= 10 for i in batch}) == 1


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    walked, jumped = BatchOrder([list(range(9))], 2, seed=3), BatchOrder([list(range(9))], 2, seed=3)
    batches = [walked[number] for number in range(20)]
    assert jumped[17] == batches[17]
    assert batches[:5] != batches[5:10]


def test_draws_repeat_for_a_step_and_differ_between_steps_and_seeds() -> None:
    one, again = draw(0, 7, (3, 4, 2, 2), 1000), draw(0, 7, (3, 4, 2, 2), 1000)
    assert torch.equal(one.noise, again.noise)
    assert torch.equal(one.timesteps, again.timesteps)
    assert not torch.equal(one.noise, draw(0, 8, (3, 4, 2, 2), 1000).noise)
    assert not torch.equal(one.noise, draw(1, 7, (3, 4, 2, 2), 1000).noise)
    assert torch.equal(one.rows(slice(1, 3)).noise, one.noise[1:3])
