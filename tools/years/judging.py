"""Simulated calls are stored as they would be, and judged by voice.score_call, one after the other, in SQL."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from fixtures.databases import Database
from fixtures.records import Records, text
from years.patients import CHANGES_ON, DIMENSION, Calls, Scenario, simulate

ENCODER = "years-v1"
BEGIN = datetime(2025, 1, 1, 12, tzinfo=UTC)
BUDGETS = (1, 4, 12)
LEVELS = ("warning", "emergency", "critical")
STORE = """
    with call as (
        insert into public.call_logs (patient_id, "timestamp", source) values (%(patient)s, %(at)s, 'provider')
        returning id
    )
    insert into voice.embeddings (patient_id, call_log_id, encoder, embedding, audio_sha256, speech_seconds, snr_db)
    select %(patient)s, call.id, %(encoder)s, %(voice)s, sha256(call.id::text::bytea), %(speech)s, %(snr)s from call
"""
JUDGE = """
create or replace procedure pg_temp.judge_all(patient uuid, encoder text, samples integer) language plpgsql as $$
declare
    stored voice.embeddings;
    call public.call_logs;
    n integer := 0;
begin
    perform voice.build_baseline(patient, encoder, array(
        select e.id from voice.embeddings as e where patient_id = patient order by e.id limit samples), null);
    for stored in select * from voice.embeddings as e where patient_id = patient order by e.id offset samples loop
        select * into call from public.call_logs where id = stored.call_log_id;
        perform voice.score_call(
            (select patients from public.patients where patients.id = patient), call, stored,
            voice.current_baseline(patient, encoder), voice.policy(encoder), call."timestamp");
        n := n + 1;
        if n %% 100 = 0 then commit; end if;
    end loop;
end
$$
"""


@dataclass(frozen=True)
class Judged:
    """What became of one scenario's patients: rates a year for the healthy ones, delays for those who changed."""

    scenario: str
    patients: int
    years: float
    warned: float  # share of patients with any warning
    episodes: dict[int, dict[str, float]]  # budget -> level -> episodes a year that reach it
    found: dict[str, list[float]]  # level -> days from the change until it was reached; infinite: never
    warned_by_budget: dict[int, list[float]]  # budget -> calls from the change until the first warning
    steps: float  # share of first warnings after the change that ask for a new telephone or room


def prepared(database: Database, document: dict[str, Any]) -> Records:
    """Register an encoder with the raw part of this calibration."""
    records = Records(database)
    records.register(ENCODER, DIMENSION)
    raw = {**document, "encoder": ENCODER, "projection": None, "bins": {"raw": document["bins"]["raw"]}}
    added = records.call("add_calibration", ENCODER, json.dumps(raw))["add_calibration"]
    records.call("use_calibration", ENCODER, added)
    return records


def judge(records: Records, scenario: Scenario, document: dict[str, Any], patients: int, seed: int) -> Judged:
    """Simulate so many patients, and judge their calls."""
    random = np.random.default_rng(seed)
    ids = []
    for _ in range(patients):
        calls = simulate(scenario, document, random)
        patient_id = records.patient()
        ids.append(patient_id)
        _store(records.database.owner, patient_id, calls)
        records.do(JUDGE)
        records.do("call pg_temp.judge_all(%s, %s, %s)", patient_id, ENCODER, scenario.samples)
    episodes = {budget: _episodes(records, ids, budget) for budget in BUDGETS}
    years = patients * scenario.days / 365
    rates = {
        budget: {level: sum(one >= n for one in found) / years for n, level in enumerate(LEVELS)}
        for budget, found in episodes.items()
    }
    alarmed = records.rows(
        """select patient_id, min("timestamp") as at from public.voice_anomaly_logs
           where patient_id = any(%s) and severity > 'low' group by 1""", ids
    )  # fmt: skip
    severities = zip(LEVELS, ("medium", "high", "critical"), strict=True)
    return Judged(
        scenario=scenario.name.strip(", "),
        patients=patients,
        years=years,
        warned=len(alarmed) / patients,
        episodes=rates,
        found={level: _calls_until(records, ids, severity, BUDGETS[0]) for level, severity in severities},
        warned_by_budget={budget: _calls_until(records, ids, "medium", budget) for budget in BUDGETS},
        steps=_asked(records, ids),
    )


def _store(connection: psycopg.Connection[Any], patient_id: Any, calls: Calls) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            STORE.encode(),
            [
                {
                    "patient": patient_id,
                    "encoder": ENCODER,
                    "at": BEGIN + timedelta(days=float(day)),
                    "voice": text(vector),
                    "speech": float(speech),
                    "snr": float(snr),
                }
                for day, snr, speech, vector in zip(
                    calls.day, calls.snr_db, calls.speech_seconds, calls.vectors, strict=True
                )
            ],
        )


def _episodes(records: Records, ids: list[Any], budget: int) -> list[int]:
    """Return the highest level of every episode that this budget would have had; 0 is a warning."""
    found = records.rows(
        """select max(array_position(array['medium', 'high', 'critical'], severity::text)) as level
           from unnest(%s::uuid[]) as one (id)
           cross join lateral voice.replay(one.id, null, jsonb_build_object('warnings_per_year', %s::float8))
           where episode is not null and severity > 'low' group by patient_id, episode""",
        ids, budget,
    )  # fmt: skip
    return [row["level"] - 1 for row in found]


def _calls_until(records: Records, ids: list[Any], severity: str, budget: int) -> list[float]:
    """Return for each patient which call after the change would first have this severity with this budget."""
    rows = records.rows(
        """select one.id, min(calls.n) filter (where calls.severity >= %s::public.anomaly_severity) as n
           from unnest(%s::uuid[]) as one (id)
           left join lateral (
               select severity, row_number() over (order by occurred_at) as n
               from voice.replay(one.id, null, jsonb_build_object('warnings_per_year', %s::float8))
               where occurred_at >= %s) as calls on true
           group by one.id""",
        severity, ids, budget, BEGIN + timedelta(days=CHANGES_ON),
    )  # fmt: skip
    return [row["n"] or np.inf for row in rows]


def _asked(records: Records, ids: list[Any]) -> float:
    rows = records.rows(
        """select distinct on (patient_id) is_step from public.voice_anomaly_logs
           where patient_id = any(%s) and severity > 'low' and "timestamp" >= %s order by patient_id, "timestamp" """,
        ids, BEGIN + timedelta(days=CHANGES_ON),
    )  # fmt: skip
    return sum(row["is_step"] for row in rows) / len(rows) if rows else 0.0
