"""The caregiver's views, as a caregiver of twenty patients reads them, while the tables grow around her."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from bench import p50_and_p95
from fixtures.databases import Connection, Database
from fixtures.records import Records

NEWEST = "where patient_id = %(patient_id)s order by {} desc limit 100"
READS = {
    "caregiver_patients, all": "select * from caregiver_patients order by known_as",
    "caregiver_patients, one": "select * from caregiver_patients where patient_id = %(patient_id)s",
    "voice_timeline, newest 100": f"select * from voice_timeline {NEWEST.format('called_at')}",
    "alert_history, newest 100": f"select * from alert_history {NEWEST.format('opened_at')}",
    "alert_history, inbox": """select * from alert_history
        order by resolved_at desc nulls first, opened_at desc limit 100""",
    "recent_anomaly_logs, newest 100": 'select * from recent_anomaly_logs order by "timestamp" desc limit 100',
    "recent_anomaly_logs, one": f"""select * from recent_anomaly_logs {NEWEST.format('"timestamp"')}""",
    "patient_voice_baseline, all": "select * from patient_voice_baseline",
    "silent_patients, all": "select * from silent_patients",
}
LARGE = 10_000  # rows; a smaller table may be read from end to end


@dataclass(frozen=True)
class Read:
    """How long one read took, over and over; and whether its plan reads a large table from end to end."""

    name: str
    p50_ms: float
    p95_ms: float
    rows: int
    scanned: list[str]


@dataclass(frozen=True)
class Size:
    calls: int
    reads: list[Read]


def bench_views(
    database: Database,
    patients: int = 1_000,
    calls: Sequence[int] = (10, 100, 1_000),
    runs: int = 200,
    tell: Callable[[str], None] = print,
) -> list[Size]:
    """Load ever more calls of each patient, one a day, and read the views at each size."""
    records = Records(database)
    caregiver, own = _settle(records, patients)
    measured, loaded = [], 0
    for count in calls:
        for first in range(loaded, count, 50):
            last = min(first + 50, count)
            _load(database, first, last)
            tell(f"   {patients * last:>9,} calls loaded")
        loaded = count
        database.admin.execute("vacuum (analyze)")
        large = {
            name
            for (name,) in database.admin.execute(
                "select relname from pg_class where relkind = 'r' and reltuples > %s", [LARGE]
            )
        }
        with database.as_role("authenticated", str(caregiver)) as connection:
            reads = [_read(connection, name, own, runs, large) for name in READS]
        measured.append(Size(patients * count, reads))
        tell(f"   {patients * count:>9,} calls measured, {runs} runs of {len(READS)} reads")
    return measured


def _settle(records: Records, patients: int) -> tuple[UUID, list[UUID]]:
    """Make the patients, with a baseline, a caregiver each and one who cares for twenty."""
    records.register()
    caregiver = records.account()
    records.do(
        """insert into public.patients (name, created_at, voice_consent_at, silent_after_days)
           select 'Ana ' || i, now() - interval '3 years', now() - interval '3 years', 2
           from generate_series(1, %s) as i""",
        patients,
    )
    records.do(
        """insert into public.patient_caregivers (patient_id, user_id, role, patient_known_as)
           select id, %s, 'family', 'Mum' from public.patients order by id limit 20""",
        caregiver,
    )
    records.do("insert into public.patient_caregivers (patient_id, role) select id, 'primary' from public.patients")
    records.do(
        """insert into voice.baselines (
               patient_id, encoder, version, embedding, sample_count, spread_mean, spread_deviation
           )
           select id, 'test-v1', 1, '[1,0,0]', 5, 0.08, 0.02 from public.patients"""
    )
    own = records.rows("select patient_id from public.patient_caregivers where user_id = %s", caregiver)
    return caregiver, [row["patient_id"] for row in own]


def _load(database: Database, first: int, last: int) -> None:
    """Give every patient the calls of these days before today: nine in ten scored, each hundredth an old alert."""
    days = {"first": first, "last": last}
    with database.admin.transaction():
        # Neither triggers nor foreign keys: what they would do is written here at once.
        database.admin.execute("set local session_replication_role = replica")
        database.admin.execute(
            """create temporary table made on commit drop as
               select gen_random_uuid() as call_log_id, gen_random_uuid() as log_id, gen_random_uuid() as alert_id,
                   patients.id as patient_id, baselines.id as baseline_id, day, now() - day * interval '1 day' as at,
                   random() * 0.25 as score, random() < 0.9 as is_scored
               from generate_series(%(first)s, %(last)s - 1) as day
                   cross join public.patients join voice.baselines on baselines.patient_id = patients.id
               order by day desc, random()""",
            days,
        )
        for statement in (
            """insert into public.call_logs (id, patient_id, "timestamp", check_state, check_reason, anomaly_score)
               select call_log_id, patient_id, at,
                   case when is_scored then 'scored' else 'skipped' end::public.check_state,
                   case when not is_scored then 'voicemail' end::public.check_reason, case when is_scored then score end
               from made""",
            """insert into public.judgements (
                   id, signal, model, patient_id, call_log_id, occurred_at, score, severity, rule, policy_id
               )
               select log_id, 'voice', 'test-v1', patient_id, call_log_id, at, score, 'low', 'fixed',
                   (select care.keep_scoring_policy(voice.policy_values('test-v1')))
               from made where is_scored""",
            """insert into public.voice_anomaly_logs (
                   id, patient_id, call_log_id, "timestamp", anomaly_score, raw_similarity, normalized_score,
                   adjusted_from, snr, severity, verdict, noise_adjusted, encoder, baseline_id, baseline_version,
                   is_provisional, added_to_baseline
               )
               select log_id, patient_id, call_log_id, at, score, 1 - score, score, score, 30, 'low', 'as_usual',
                   false, 'test-v1', baseline_id, 1, false, false
               from made where is_scored""",
            """insert into care.checks (call_log_id, patient_id, signal, model, state, detail, quality, finished_at)
               select call_log_id, patient_id, 'voice', 'test-v1', 'scored', '{"snr_db": 30}', '{"agreement": 0.9}', at
               from made where is_scored""",
            """insert into public.caregiver_alerts (
                   id, patient_id, level, state, cause, causes, anomaly_score, call_log_id, judgement_id, opened_at,
                   resolved_at
               )
               select alert_id, patient_id, 'warning', 'resolved', 'voice_changed', '{voice_changed}', score,
                   call_log_id, log_id, at, at
               from made where is_scored and day %% 100 = 7""",
            """insert into public.alert_changes (alert_id, patient_id, change, level, cause, changed_at)
               select alert_id, patient_id, change, 'warning', 'voice_changed', at
               from made, unnest('{opened,acknowledged,resolved}'::public.alert_change[]) as change
               where is_scored and day %% 100 = 7""",
        ):
            database.admin.execute(statement.encode(), {})


def _read(connection: Connection, name: str, own: Sequence[UUID], runs: int, large: set[str]) -> Read:
    query = READS[name].encode()
    taken: list[float] = []
    rows = 0
    for run in range(-3, runs):
        begun = time.perf_counter()
        rows = len(connection.execute(query, {"patient_id": own[run % len(own)]}, prepare=False).fetchall())
        if run >= 0:
            taken.append(1_000 * (time.perf_counter() - begun))
    plan = connection.execute(b"explain (format json) " + query, {"patient_id": own[0]}).fetchone()
    assert plan
    scanned = sorted(set(_sequential(plan[0][0]["Plan"])) & large)
    return Read(name, *p50_and_p95(taken), rows, scanned)


def _sequential(node: dict[str, Any]) -> Iterator[str]:
    if node["Node Type"] == "Seq Scan":
        yield node["Relation Name"]
    for below in node.get("Plans", []):
        yield from _sequential(below)


def shown(sizes: Sequence[Size]) -> str:
    """Write the reads side by side: p50 / p95 in ms at each size, and how much slower the last is than the first."""
    head = " ".join(f"{f'{size.calls:,} calls':>18}" for size in sizes)
    lines = [f"{'p50 / p95, ms':<32}{'rows':>5} {head}   p95, last to first"]
    for reads in zip(*(size.reads for size in sizes), strict=True):
        times = " ".join(f"{f'{read.p50_ms:.1f} / {read.p95_ms:.1f}':>18}" for read in reads)
        scans = "  reads all of " + ", ".join(reads[-1].scanned) if reads[-1].scanned else ""
        ratio = reads[-1].p95_ms / reads[0].p95_ms
        lines.append(f"{reads[-1].name:<32}{reads[-1].rows:>5} {times}   {ratio:.1f}{scans}")
    return "\n".join(lines)


def failures(sizes: Sequence[Size], longest_ms: float = 50.0) -> list[str]:
    """Name what is slower than that at the largest size, or reads a large table from end to end at any."""
    slow = [f"{read.name}: p95 is {read.p95_ms:.0f} ms" for read in sizes[-1].reads if read.p95_ms >= longest_ms]
    scans = [f"{read.name}: reads all of {table}" for read in sizes[-1].reads for table in read.scanned]
    return slow + scans


def as_json(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    return [asdict(size) for size in sizes]
