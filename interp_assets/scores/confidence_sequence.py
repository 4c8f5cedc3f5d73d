"""An interval for a mean that may be looked at after every observation, and asking be stopped whenever it is narrow.

A fixed-size interval that is looked at again and again misses the truth far more often than it says. This one is a
confidence sequence: with probability 1 - ALPHA it holds the mean at *all* times at once, whatever rule stops it.

Hedged capital process of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B
2024, arXiv 2010.09686), theorem 3, with the predictable plug-in bets of its section 4. For x_1, x_2, ... in [0, 1] of
mean mu and each candidate m:

    up_t(m)   = prod_{i<=t} (1 + min(bet_i, C / m) (x_i - m))          grows where the mean lies above m
    down_t(m) = prod_{i<=t} (1 - min(bet_i, C / (1 - m)) (x_i - m))    grows where it lies below
    bet_t     = sqrt(2 ln(2 / ALPHA) / (var_{t-1} t ln(1 + t)))
    var_t     = (1/4 + sum_{i<=t} (x_i - mean_i)^2) / (t + 1),         mean_t = (1/2 + sum_{i<=t} x_i) / (t + 1)

At m = mu both are nonnegative martingales that begin at 1, so by Ville's inequality max(up, down) / 2 ever reaches
1 / ALPHA with probability ALPHA at most. The interval holds the m where it has not. As m rises, up falls and down
grows, so that it is an interval; its ends are looked for on a grid and rounded outwards.
"""

from __future__ import annotations

import numpy as np

ALPHA = 0.05
C = 0.75
"How much of the capital is at most put on one observation."
GRID = np.linspace(0.0, 1.0, 501)
"Candidate means."


def confidence_sequence(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval after each observation.

    Args:
        x: observations in [0, 1], float64 [n], in the order in which they were made.

    Returns:
        low and high, float64 [n] each; after no observation at all it would be 0 to 1.
    """
    bets = plug_in_bets(x)[:, None]
    gain = x[:, None] - GRID
    with np.errstate(divide="ignore"):
        up = np.log1p(np.minimum(bets, C / GRID) * gain).cumsum(0)
        down = np.log1p(-np.minimum(bets, C / (1 - GRID)) * gain).cumsum(0)
    enough = np.log(2 / ALPHA)
    # The last candidate that is too low, and the first that is too high.
    low = np.maximum((up >= enough).sum(1) - 1, 0)
    high = np.minimum(len(GRID) - (down >= enough).sum(1), len(GRID) - 1)
    return GRID[low], GRID[high]


def plug_in_bets(x: np.ndarray) -> np.ndarray:
    """What is bet on each observation, float64 [n]; each depends on those before it alone."""
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + x.cumsum()) / (t + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum()) / (t + 1)
    before = np.append(0.25, variance)[: len(x)]
    return np.sqrt(2 * np.log(2 / ALPHA) / (before * t * np.log1p(t)))


def interval(x: np.ndarray) -> tuple[float, float]:
    """The interval after all observations; 0 to 1 where there are none."""
    if not len(x):
        return 0.0, 1.0
    low, high = confidence_sequence(x)
    return float(low[-1]), float(high[-1])
