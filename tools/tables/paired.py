"""Differences of runs that share their seeds: paired by seed, with one residual variance pooled over all runs.

A seed fixes the order of the images and what augmentation draws, for every run alike, and so moves their scores
together. The score of run v with seed s is taken as ``m_v + e_s`` and a residual; the residual's variance is estimated
from all runs of a sweep at once, which a few seeds of two runs could not do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

import numpy as np
from scipy import stats

Scores = Mapping[int, float]
"""What a run reached, by seed, in points."""
CONFIDENCE, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a score's residual, in points, and the degrees of freedom that it rests on."""

    deviation: float
    freedom: int


def pooled_noise(runs: Mapping[str, Scores]) -> Noise | None:
    """The residual of the additive model, by least squares; None where nothing is left to estimate it from."""
    points = [(run, seed, score) for run, scores in runs.items() for seed, score in scores.items()]
    seeds = sorted({seed for _, seed, _ in points})
    design = np.array([[run == r for r in runs] + [seed == s for s in seeds] for run, seed, _ in points], float)
    values = np.array([score for _, _, score in points])
    if not len(values):
        return None
    fit, _, rank, _ = np.linalg.lstsq(design, values)
    freedom = len(values) - int(rank)
    if freedom == 0:
        return None
    residual = values - design @ fit
    return Noise(float(np.sqrt(residual @ residual / freedom)), freedom)


@dataclass(frozen=True)
class Difference:
    """Points by which a second run is above a first one, over the seeds that both have.

    Args:
        error: standard error of ``points``, with ``freedom`` degrees of freedom.
    """

    points: float
    error: float
    freedom: int
    seeds: int

    @property
    def half(self) -> float:
        """Half the length of the 95% interval."""
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.error

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the difference."""
        return self.points - self.half, self.points + self.half

    @property
    def smallest(self) -> float:
        """The smallest true difference that would be told from none with 80% power."""
        return self.half + float(stats.t.ppf(POWER, self.freedom)) * self.error


def difference(first: Scores, second: Scores, noise: Noise) -> Difference | None:
    """The paired difference; None where the runs share no seed."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    points = mean(second[seed] - first[seed] for seed in shared)
    return Difference(points, noise.deviation * float(np.sqrt(2 / len(shared))), noise.freedom, len(shared))
