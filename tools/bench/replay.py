"""What-if over a large history: how many stored calls a minute are judged once more."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fixtures.calibrated import ALWAYS_THE_SAME, Patient, calibrate
from fixtures.databases import Database
from fixtures.records import Records

LEAST_A_MINUTE = 1_000_000
PATIENTS = 200
COPIED = """
    with copied as (
        insert into public.call_logs (patient_id, "timestamp", source)
        select %(patient)s, now() - make_interval(days => n), 'provider' from generate_series(1, %(calls)s) as n
        returning id, patient_id, "timestamp"
    ),
    judged as (
        insert into public.judgements (
            signal, model, patient_id, call_log_id, occurred_at, score, severity, rule, policy_id)
        select 'voice', template.encoder, copied.patient_id, copied.id, copied."timestamp", 0.1, 'low', 'calibrated',
            (select policy_id from public.judgements limit 1)
        from copied cross join (select encoder from public.voice_anomaly_logs limit 1) as template
        returning id, call_log_id, patient_id, occurred_at
    ),
    numbered as (
        select judged.*, row_number() over (order by occurred_at)::integer as n from judged
    )
    insert into public.voice_anomaly_logs
    select (jsonb_populate_record(template, jsonb_build_object(
        'id', numbered.id, 'patient_id', numbered.patient_id, 'call_log_id', numbered.call_log_id,
        'timestamp', numbered.occurred_at, 'created_at', numbered.occurred_at, 'decision_number', numbered.n,
        'population_deviation', random_normal(0, 1), 'embedding_id', null, 'baseline_id', null))).*
    from numbered cross join (
        select logs as template from public.voice_anomaly_logs as logs order by logs.created_at limit 1
    ) as one
"""


@dataclass(frozen=True)
class Replay:
    """How long it took to judge so many stored calls again."""

    calls: int
    seconds: float

    @property
    def a_minute(self) -> float:
        return 60 * self.calls / self.seconds


def bench_replay(database: Database, calls: int = 100_000, tell: Callable[[str], None] = print) -> Replay:
    """Store calls of many patients, as if they had been judged, and replay them under another budget."""
    records = Records(database)
    records.register()
    calibrate(records, ALWAYS_THE_SAME)
    Patient(records).call(0.0)
    database.admin.execute("set session_replication_role = replica")  # no check is queued for what is only stored
    for _ in range(PATIENTS):
        patient_id = records.patient()
        database.admin.execute(COPIED.encode(), {"patient": patient_id, "calls": calls // PATIENTS})
    database.admin.execute("analyze")
    tell(f"   {calls} calls of {PATIENTS} patients stored")
    begun = time.perf_counter()
    found = records.rpc("replay_policy", changes='{"warnings_per_year": 12}')[0]["replay_policy"]
    return Replay(found["calls"], time.perf_counter() - begun)


def shown(found: Replay) -> str:
    return f"{found.calls} stored calls judged again in {found.seconds:.1f} s: {found.a_minute:,.0f} a minute"


def failures(found: Replay) -> list[str]:
    """Say where it is slower than promised."""
    if found.a_minute >= LEAST_A_MINUTE:
        return []
    return [f"a replay judges {found.a_minute:,.0f} calls a minute, not {LEAST_A_MINUTE:,}"]


def as_json(found: Replay) -> dict[str, Any]:
    return asdict(found) | {"a_minute": found.a_minute}
