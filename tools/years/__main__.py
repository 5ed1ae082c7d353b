"""Judge years of simulated patients by the real SQL: how often healthy ones alarm, and when changes are found."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fixtures.databases import Server, short_folder
from retrocare.calibration.document import shipped
from retrocare.database.embedded import embedded
from years.judging import BUDGETS, LEVELS, Judged, judge, prepared
from years.patients import CHANGES, HEALTHY, Scenario

AT_MOST = {"typical": {"warning": 1.0, "emergency": 0.05, "critical": 0.01}}
PESSIMISTIC = {"emergency": 0.1, "critical": 0.02}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/years", description=__doc__)
    parser.add_argument(
        "--patients", type=int, default=20, metavar="N", help="of each healthy row; changes have as many"
    )
    parser.add_argument("--encoder", default="ge2e-v2", help="whose calibration")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--postgres", type=int, default=18, choices=[16, 18])
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    document = shipped(chosen.encoder)
    if document is None:
        parser.error(f"no calibration comes with {chosen.encoder}")
    found = run(document, chosen.patients, chosen.postgres, chosen.seed)
    print(shown(found))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    return 0


def run(document: dict[str, Any], patients: int, postgres: int, seed: int) -> list[Judged]:
    """Judge every scenario, two at a time, each in a database of its own."""
    with short_folder() as folder, embedded(folder, postgres, {"fsync": "off", "synchronous_commit": "off"}) as started:
        server = Server(started.admin_url())

        def one(scenario: Scenario) -> Judged:
            begun = time.monotonic()
            with server.clone(server.migrated_template) as database:
                judged = judge(prepared(database, document), scenario, document, patients, seed)
            tell(f"   {judged.scenario}: {judged.years:.0f} patient-years in {time.monotonic() - begun:.0f} s")
            return judged

        try:
            _ = server.migrated_template
            with ThreadPoolExecutor(2) as pool:
                return list(pool.map(one, (*HEALTHY, *CHANGES)))
        finally:
            server.close()


def shown(found: Sequence[Judged]) -> str:
    healthy = {scenario.name.strip(", ") for scenario in HEALTHY}
    budgets = "".join(f"{f'budget {budget}':>24}" for budget in BUDGETS)
    lines = [
        "healthy: episodes a year that reach warning / emergency / critical; patients without any",
        f"{'':<34}{budgets}{'none':>8}",
    ]
    for one in found:
        if one.scenario in healthy:
            rates = "".join(
                f"{' / '.join(f'{one.episodes[budget][level]:.3f}' for level in LEVELS):>24}" for budget in BUDGETS
            )
            lines.append(f"{one.scenario:<34}{rates}{1 - one.warned:>8.0%}")
    lines += [
        "",
        "changed: the call at which half are found (shares found by call 1 / 2 / 7 / 30), budget 1",
        f"{'':<34}{'warning':>34}{'emergency':>34}{'asks':>8}",
    ]
    for one in found:
        if one.scenario not in healthy:
            cells = "".join(f"{_delay(one.found[level]):>34}" for level in LEVELS[:2])
            lines.append(f"{one.scenario:<34}{cells}{one.steps:>8.0%}")
    lines += [
        "",
        "the call at which half are warned about, by budget",
        f"{'':<34}" + "".join(f"{f'budget {b}':>34}" for b in BUDGETS),
    ]
    for one in found:
        if one.scenario not in healthy:
            lines.append(f"{one.scenario:<34}{''.join(f'{_delay(one.warned_by_budget[b]):>34}' for b in BUDGETS)}")
    return "\n".join(lines)


def _delay(calls: Sequence[float]) -> str:
    median = float(np.median(calls))
    shares = " / ".join(f"{np.mean([n <= limit for n in calls]):.2f}" for limit in (1, 2, 7, 30))
    return f"{'never' if np.isinf(median) else f'{median:.0f}'} ({shares})"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
