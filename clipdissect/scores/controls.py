"""Labels that don't depend on the units, as controls of a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

POOL = 1000  # texts that random labels are drawn from, at most: encoders embed each of them
CONSTANT, RANDOM, SHUFFLED = CONTROLS = ("constant", "random", "shuffled")


def control_labels(
    labels: Sequence[str], pool: Sequence[str], draws: int, seed: int
) -> dict[str, list[list[str]]]:
    """Return lists of one text per unit, by control.

    `constant` is the commonest label (the first of several), `random` are texts drawn from the
    pool, `shuffled` are the labels themselves in a random order.

    Args:
        labels: of the described units of a layer.
        pool: what labels could have been chosen from, of which `POOL` are taken; empty: no random
            labels.
        draws: of random and of shuffled labels, to average over.
    """
    if not labels:
        return {}
    generator = np.random.default_rng(seed)
    if len(pool) > POOL:  # drawn first, and so the same ones for every layer
        pool = [pool[i] for i in np.sort(generator.choice(len(pool), POOL, replace=False))]
    commonest = Counter(labels).most_common(1)[0][0]
    result = {CONSTANT: [[commonest] * len(labels)]}
    if pool:
        drawn = generator.integers(0, len(pool), (draws, len(labels)))
        result[RANDOM] = [[pool[i] for i in row] for row in drawn]
    shuffles = [generator.permutation(len(labels)) for _ in range(draws)]
    return result | {SHUFFLED: [[labels[i] for i in order] for order in shuffles]}
