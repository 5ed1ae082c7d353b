"""How fast it is: ``scripts/bench``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def p50_and_p95(spent: Sequence[float]) -> tuple[float, float]:
    """Return the median of some times, and what one of twenty takes longer than."""
    return statistics.median(spent), statistics.quantiles(spent, n=20)[-1]
