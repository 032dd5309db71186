"""Paired differences with a pooled residual variance, against scipy, a simulation and textbooks."""

import numpy as np
import pytest
from scipy import stats

from tools.tables.paired import Noise, difference, pooled_noise

BALANCED = {"a": {0: 40.0, 1: 42.0, 2: 41.0}, "b": {0: 44.0, 1: 44.5, 2: 46.0}}


def test_for_two_runs_it_is_the_paired_t_test() -> None:
    noise = pooled_noise(BALANCED)
    assert noise is not None
    found = difference(BALANCED["a"], BALANCED["b"], noise)
    assert found is not None
    first, second = (list(scores.values()) for scores in BALANCED.values())
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert (found.points, found.seeds) == (pytest.approx(np.mean(second) - np.mean(first)), 3)


def test_a_third_run_lends_its_residuals() -> None:
    """Fisher's two-way layout: the residual sum of squares is what rows and columns leave, with (r - 1)(c - 1)."""
    runs = BALANCED | {"c": {0: 50.0, 1: 51.5, 2: 50.5}}
    table = np.array([list(scores.values()) for scores in runs.values()])
    left = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    noise = pooled_noise(runs)
    assert noise == Noise(pytest.approx(np.sqrt((left**2).sum() / 4)), 4)


def test_runs_that_lack_a_seed_count_with_those_that_they_have() -> None:
    runs = {"a": {0: 1.0, 1: 2.5, 2: 3.0}, "b": {0: 2.0, 2: 4.5}, "c": {1: 0.5, 2: 1.0}}
    design, values = [], []
    for row, scores in enumerate(runs.values()):
        for seed, score in scores.items():
            design.append([1, row == 1, row == 2, seed == 1, seed == 2])
            values.append(score)
    x, y = np.array(design, float), np.array(values)
    residual = y - x @ np.linalg.solve(x.T @ x, x.T @ y)  # the normal equations
    assert pooled_noise(runs) == Noise(pytest.approx(np.sqrt((residual**2).sum() / 2)), 2)
    noise = Noise(0.5, 2)
    found = difference(runs["a"], runs["b"], noise)
    assert found is not None
    assert (found.points, found.seeds, found.error) == (1.25, 2, pytest.approx(0.5))


@pytest.mark.parametrize("runs", [{}, {"a": {}}, {"a": {0: 1.0}, "b": {0: 2.0}}, {"a": {0: 1.0, 1: 2.0}}])
def test_no_noise_is_made_up(runs: dict) -> None:
    assert pooled_noise(runs) is None


def test_runs_without_a_common_seed_are_not_compared() -> None:
    assert difference({0: 1.0}, {1: 2.0}, Noise(1.0, 3)) is None


def test_the_smallest_difference_is_seen_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    seeds, others = range(5), 4
    exact = difference(dict.fromkeys(seeds, 0.0), dict.fromkeys(seeds, 0.0), Noise(1.0, (others + 1) * 4))
    assert exact is not None
    seen = 0
    for _ in range(600):
        shift = rng.normal(0, 3, len(seeds))  # what a seed does to all runs alike
        table = rng.normal(0, 1, (others + 2, len(seeds))) + shift
        table[1] += exact.smallest
        runs = {str(row): dict(zip(seeds, scores, strict=True)) for row, scores in enumerate(table)}
        noise = pooled_noise(runs)
        assert noise is not None
        found = difference(runs["0"], runs["1"], noise)
        assert found is not None
        seen += found.interval[0] > 0
    assert seen / 600 == pytest.approx(0.80, abs=0.05)
