"""Which of a latent's active windows are taken: the samplers of the field, vectorised over a block of latents."""

from __future__ import annotations

import numpy as np

from interp_assets.examples.draws import in_order_of, order_by, rank_in_group
from interp_assets.tables import DECILES

# Any first few of these deciles spread over the whole range, so a scorer that takes fewer trials still sees all of it.
SPREAD = np.array([0, 6, 3, 8, 1, 9, 4, 7, 2, 5])
"Place of each decile in the order in which deciles take turns."


def sample(
    sampler: str, n: int, pool: int, group: np.ndarray, peak: np.ndarray, decile: np.ndarray, priority: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take up to n windows of each group.

    top: the strongest. random: the lowest priorities. quantiles: deciles take turns, lowest priorities first, so an
    equal number of each as long as they last. top_pool: n drawn from the `pool` strongest. mixture: half so, the rest
    from everywhere.

    Args:
        group: int64 [windows], small numbers, one for each latent; in any order.
        peak, decile, priority: of each window.

    Returns:
        indices of the windows taken, sorted by group and turn; and the turn (0, 1, 2, ...) of each within its group.
    """
    if sampler == "top":
        return first_of_each(group, ~in_order_of(peak), n)
    if sampler == "random":
        return first_of_each(group, priority, n)
    if sampler == "quantiles":
        return by_turns(group, decile, priority, n)
    in_pool, _ = first_of_each(group, ~in_order_of(peak), pool)
    share = n if sampler == "top_pool" else n // 2
    chosen, turn = first_of_each(group[in_pool], priority[in_pool], share)
    chosen = in_pool[chosen]
    if sampler == "top_pool":
        return chosen, turn
    rest = np.setdiff1d(np.arange(len(group)), chosen, assume_unique=True)
    taken = np.bincount(group[chosen], minlength=int(group.max()) + 1 if len(group) else 0)
    more, place = first_of_each(group[rest], priority[rest], n)
    enough = place < n - taken[group[rest[more]]]
    both = np.concatenate([chosen, rest[more][enough]])
    turn = np.concatenate([turn, place[enough] + taken[group[rest[more]]][enough]])
    order = np.lexsort((turn, group[both]))
    return both[order], turn[order]


def first_of_each(group: np.ndarray, value: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n elements of lowest value in each group: their indices, and their ranks."""
    order = order_by(group, value)
    rank = rank_in_group(group[order])
    kept = rank < n
    return order[kept], rank[kept]


def by_turns(group: np.ndarray, decile: np.ndarray, priority: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Deciles take turns within each group until it has n."""
    cell = group * DECILES + decile
    sizes = np.bincount(cell, minlength=DECILES * (int(group.max()) + 1) if len(group) else 0)
    needed = turns_needed(sizes.reshape(-1, DECILES), n)
    order = order_by(cell, priority)
    rank = rank_in_group(cell[order])
    kept = rank < needed[group[order]]
    order, rank = order[kept], rank[kept]
    turn = (rank * DECILES + SPREAD[decile[order]]).astype(np.uint64)
    return_to, place = first_of_each(group[order], turn << np.uint64(32), n)
    return order[return_to], place


def turns_needed(sizes: np.ndarray, n: int) -> np.ndarray:
    """The fewest turns after which each group has n or is exhausted; sizes int64 [groups, deciles], result [groups]."""
    wanted = np.minimum(sizes.sum(axis=1), n)
    low, high = np.zeros(len(sizes), dtype=np.int64), np.full(len(sizes), n)
    for _ in range(n.bit_length()):
        middle = (low + high) // 2
        enough = np.minimum(sizes, middle[:, None]).sum(axis=1) >= wanted
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return high
