"""The same work beside ten thousand calls and beside ten million: checks are claimed and completed, views are read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
from pgvector import Vector

from bench import p50_and_p95
from bench.bulk import Vectors, near, progress
from bench.history import DIMENSION, ENCODER, TABLES, load_calls
from fixtures.databases import Connection, Database, Server
from fixtures.records import Records, Row

READS = {
    "timeline, newest 100": """select * from voice_timeline where patient_id = %(patient_id)s
        order by called_at desc limit 100""",
    "overview of 20 patients": "select * from caregiver_patients order by known_as",
}
ROUND = 100  # checks that wait at a time, each of another patient
FIRST = "completion, first of a patient"
FLAT = 1.3  # as much slower may the last size be than the first


Advance = Callable[[int], None]


@dataclass(frozen=True)
class Took:
    """How long one kind of work took, over and over."""

    p50_ms: float
    p95_ms: float

    @classmethod
    def of(cls, spent: Sequence[float]) -> Took:
        return cls(*p50_and_p95(spent))


@dataclass(frozen=True)
class Scale:
    """What was measured beside so many calls."""

    calls: int
    patients: int
    load_seconds: float
    build_seconds: float
    took: dict[str, Took]
    bytes_per_call: dict[str, float]  # by table and index
    hot_shares: dict[str, float]  # of the updates of a table: those that wrote no index


@dataclass
class Side:
    """One database, who works there, and what was measured so far."""

    database: Database
    caregiver: Connection
    patients: list[UUID]
    own: list[UUID]  # those of the caregiver
    called: list[UUID]  # those who are called in every round
    voices: Vectors
    spent: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def timed(self, name: str, work: Callable[[], Any], counts: bool) -> Any:
        begun = time.perf_counter()
        done = work()
        if counts:
            self.spent[name].append(1_000 * (time.perf_counter() - begun))
        return done


def bench_scale(
    server: Server,
    sizes: Sequence[int] = (10_000, 1_000_000),
    runs: int = 300,
    tell: Callable[[str], None] = print,
) -> list[Scale]:
    """Load each size into a database of its own, then work in all of them by turns: noise meets each alike."""
    with ExitStack() as opened:
        sides, loads = [], []
        for calls in sizes:
            database = opened.enter_context(server.clone(server.migrated_template))
            side, seconds = _settle(opened, database, calls, tell)
            sides.append(side)
            loads.append((calls, seconds))
        random = np.random.default_rng(2)
        with progress("   runs", ROUND + runs) as advance:
            for first in range(0, ROUND + runs, ROUND):
                _work_by_turns(sides, random, range(first, min(first + ROUND, ROUND + runs)), advance)
        tell(f"   {runs} runs in each")
        return [
            Scale(
                calls, len(side.patients), *seconds,
                {name: Took.of(spent) for name, spent in side.spent.items()},
                _bytes_per_call(side.database, calls), _hot_shares(side.database),
            )
            for side, (calls, seconds) in zip(sides, loads, strict=True)
        ]  # fmt: skip


def _settle(
    opened: ExitStack, database: Database, calls: int, tell: Callable[[str], None]
) -> tuple[Side, tuple[float, float]]:
    """Give the calls to patients, a thousand each, or where they are few a hundred; and twenty of them a caregiver."""
    records = Records(database)
    records.register(ENCODER, DIMENSION)
    patients = max(100, calls // 1_000)
    voices, load_seconds, taken = load_calls(database.admin, patients, calls // patients)
    tell(f"   {calls:>10,} calls of {patients:,} patients loaded in {load_seconds:.0f} s")
    slowest = max(taken, key=lambda name: taken[name])
    built = sum(taken.values())
    tell(f"   {calls:>10,} calls indexed in {built:.0f} s ({len(taken)} indexes, {slowest} {taken[slowest]:.0f} s)")
    account = records.account()
    ids = [row["id"] for row in records.rows("select id from public.patients order by name")]
    own = ids[:: len(ids) // 20][:20]
    records.do(
        """insert into public.patient_caregivers (patient_id, user_id, role)
           select id, %s, 'family' from unnest(%s::uuid[]) as id""",
        account, own,
    )  # fmt: skip
    caregiver = opened.enter_context(database.as_role("authenticated", str(account)))
    called = [ids[place] for place in np.random.default_rng(3).permutation(len(ids))[:ROUND]]
    return Side(database, caregiver, ids, own, called, voices), (load_seconds, built)


def _work_by_turns(sides: Sequence[Side], random: np.random.Generator, numbers: range, advance: Advance) -> None:
    """Let a check of each of a hundred patients wait, and claim and complete one after the other.

    The first round is nobody's everyday: what a patient's calls touch was not touched since it was loaded.
    """
    for side in sides:
        Records(side.database).do(
            """insert into public.call_logs (patient_id, provider, provider_call_id, recording_ref, recording_channel)
               select id, 'vapi', gen_random_uuid(), 'storage:voice-recordings/' || id || '/call.wav', 'customer'
               from unnest(%s::uuid[]) as id""",
            side.called[: len(numbers)],
        )
    for number in numbers:
        for side in sides:
            _work(side, random, number)
        advance(1)


def _work(side: Side, random: np.random.Generator, number: int) -> None:
    records = Records(side.database)
    is_first = number < ROUND
    claim: Row = side.timed("claim", lambda: records.call("claim_checks", ENCODER, "bench", 1, 60.0), not is_first)
    voice = near(side.voices[[side.patients.index(claim["patient_id"])]], 0.92, random)[0]
    values = (
        claim["check_id"], claim["lease_token"], Vector(voice).to_text(), random.bytes(32), 10.0, 30.0,
        '{"windows": 6, "agreement": 0.93, "clipped_share": 0.0, "channel": "customer"}',
    )  # fmt: skip
    ended = side.timed(FIRST if is_first else "completion", lambda: records.call("complete_check", *values), number > 5)
    assert ended["state"] == "scored", ended
    asked = {"patient_id": side.own[number % len(side.own)]}
    for name, query in READS.items():
        side.timed(name, partial(_read, side.caregiver, query, asked), not is_first)


def _read(connection: Connection, query: str, asked: Row) -> list[Any]:
    return connection.execute(query.encode(), asked, prepare=False).fetchall()


def _bytes_per_call(database: Database, calls: int) -> dict[str, float]:
    found = database.admin.execute(
        """select relation.oid::regclass::text,
               pg_relation_size(relation.oid)::float8 + coalesce(pg_relation_size(nullif(relation.reltoastrelid, 0)), 0)
           from pg_class as relation left join pg_index on indexrelid = relation.oid
           where coalesce(indrelid, relation.oid) = any (%s::text[]::regclass[])
           order by coalesce(indrelid, relation.oid), relkind desc, 2 desc""",
        [list(TABLES)],
    )
    return {name: size / calls for name, size in found if size / calls >= 0.5}


def _hot_shares(database: Database) -> dict[str, float]:
    database.close()  # who leaves reports what was done
    found = database.admin.execute(
        """select relid::regclass::text, n_tup_hot_upd::float8 / n_tup_upd from pg_stat_user_tables
           where relid = any (%s::text[]::regclass[]) and n_tup_upd > 0 order by 1""",
        [list(TABLES)],
    )
    return dict(found)


def shown(sizes: Sequence[Scale]) -> str:
    """Write p50 / p95 in ms at each size side by side, the last beside the first, and what a call takes on the disk."""
    last = sizes[-1]
    lines = [
        f"{'p50 / p95, ms':<34}" + "".join(f"{f'{size.calls:,} calls':>20}" for size in sizes) + "   p50, last to first"
    ]
    for name in last.took:
        times = "".join(f"{f'{size.took[name].p50_ms:.2f} / {size.took[name].p95_ms:.2f}':>20}" for size in sizes)
        lines.append(f"{name:<34}{times}   {_ratio(sizes, name):.2f}")
    lines.append(f"bytes per call: {sum(last.bytes_per_call.values()):,.0f}")
    lines += [f"{size:>8,.0f}  {name}" for name, size in last.bytes_per_call.items()]
    lines += [f"updates of {name} that wrote no index: {share:.0%}" for name, share in last.hot_shares.items()]
    return "\n".join(lines)


def _ratio(sizes: Sequence[Scale], name: str) -> float:
    return sizes[-1].took[name].p50_ms / sizes[0].took[name].p50_ms


def failures(sizes: Sequence[Scale]) -> list[str]:
    """Name what takes more than FLAT times as long beside the most calls as beside the fewest.

    A patient's first call since the start is left out: its pages come from the disk where memory does not hold all.
    """
    ratios = {name: _ratio(sizes, name) for name in sizes[-1].took if name != FIRST}
    return [
        f"{name}: {ratio:.2f} times as long beside {sizes[-1].calls:,} calls"
        for name, ratio in ratios.items()
        if ratio > FLAT
    ]


def as_json(sizes: Sequence[Scale]) -> list[dict[str, Any]]:
    return [asdict(size) for size in sizes]
