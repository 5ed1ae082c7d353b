"""The rows that a test starts from, made as the service makes them: by calling its functions of care and voice."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row

from databases import Database

ENCODER, DIMENSION = "test-v1", 3
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
USUAL = (1.0, 0.0, 0.0)
THRESHOLDS = ("medium_above", "high_above", "critical_above", "checkin_above")

Row = dict[str, Any]
_recordings = count(1)


def text(vector: Sequence[float]) -> str:
    """Write a vector as pgvector reads it."""
    return "[" + ",".join(repr(float(component)) for component in vector) + "]"


def at_cosine(similarity: float) -> tuple[float, float, float]:
    """Give the unit vector that has this cosine similarity to USUAL."""
    return (similarity, math.sqrt(max(0.0, 1 - similarity**2)), 0.0)


@dataclass
class Records:
    """One database and what tests do with it."""

    database: Database

    @property
    def service(self) -> psycopg.Connection[tuple[Any, ...]]:
        return self.database.service

    def rows(self, query: str, *values: object) -> list[Row]:
        """Read as the owner."""
        with self.database.owner.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), values).fetchall()

    def row(self, query: str, *values: object) -> Row:
        [found] = self.rows(query, *values)
        return found

    def one(self, query: str, *values: object) -> Any:
        """Read a single value as the owner."""
        [value] = self.row(query, *values).values()
        return value

    def do(self, statement: str, *values: object) -> None:
        self.database.owner.execute(statement.encode(), values)

    def call(self, function: str, *values: object, connection: psycopg.Connection[Any] | None = None) -> Row:
        """Call a function of one of the private schemas as the service may."""
        places = ", ".join(["%s"] * len(values))
        with (connection or self.service).cursor(row_factory=dict_row) as cursor:
            [found] = cursor.execute(f"select * from {self.qualified(function)}({places})".encode(), values).fetchall()
        if function in (
            "abstain_check",
            "fail_check",
        ):  # the service asks what became of it, as retrocare.database.client
            return self.call("stored_result", values[0], connection=connection)
        return found

    def qualified(self, function: str) -> str:
        """Return a private function's name with its schema; what voice makes of a function of care is meant."""
        found: str = self.one(
            """select distinct pronamespace::regnamespace || '.' || proname from pg_proc
               where proname = %s and pronamespace in ('care'::regnamespace, 'voice'::regnamespace)
               order by 1 desc limit 1""",
            function,
        )
        return found

    def rpc(self, function: str, sub: UUID | None = None, role: str = "", **arguments: object) -> list[Row]:
        """Call a function of the schema public as the Data API does, for an edge function or the account ``sub``."""
        named = ", ".join(f"{name} => %s" for name in arguments)
        statement = f"select * from public.{function}({named})".encode()
        with self.database.as_role(
            role or ("authenticated" if sub else "service_role"), str(sub) if sub else None
        ) as connection:
            return connection.cursor(row_factory=dict_row).execute(statement, list(arguments.values())).fetchall()

    def seen(self, view: str, sub: UUID | None = None) -> list[Row]:
        """Read a view of the schema public as ``rpc`` calls a function."""
        with self.database.as_role("authenticated" if sub else "service_role", str(sub) if sub else None) as connection:
            return connection.cursor(row_factory=dict_row).execute(f"select * from public.{view}".encode()).fetchall()

    def account(self) -> UUID:
        """Give a new person an account."""
        user_id: UUID = self.one(
            "insert into auth.users (email) values (gen_random_uuid() || '@example.org') returning id"
        )
        return user_id

    def caregiver(self, patient_id: UUID, role: str = "primary", **values: object) -> UUID:
        """Give the patient a caregiver with an account and, unless told otherwise, a telephone; return the account."""
        user_id = self.account()
        row = {
            "phone": f"+4930{next(_recordings):07}",
            **values,
            "patient_id": patient_id,
            "role": role,
            "user_id": user_id,
        }
        places = ", ".join(["%s"] * len(row))
        self.do(f"insert into public.patient_caregivers ({', '.join(row)}) values ({places})", *row.values())
        return user_id

    def report(self, provider_call_id: str, **report: Any) -> Row:
        """Report a finished call, as functions/call-webhook does."""
        usual: Row = {
            "ended_reason": "customer-ended-call",
            "started_at": NOON,
            "ended_at": NOON + timedelta(minutes=5),
        }
        usual |= {"at": NOON + timedelta(minutes=6)} | report
        [received] = self.rpc("receive_call_report", provider="vapi", provider_call_id=provider_call_id, **usual)
        return received

    def run_jobs(self, at: datetime) -> dict[str, int]:
        """Let time pass: run every job once, each in a transaction of its own; return how much each did."""
        jobs = [row["due_jobs"] for row in self.rows("select care.due_jobs('infinity')")]
        return {job: self.one("select care.run_job(%s, %s)", job, at) for job in jobs}

    def register(self, encoder: str = ENCODER, dimension: int = DIMENSION) -> bool:
        return bool(self.call("register_encoder", encoder, dimension, 1.6)["register_encoder"])

    def set_policy(self, **values: float) -> None:
        for name, value in values.items():
            self.do(f"update {'care.thresholds' if name in THRESHOLDS else 'voice.policies'} set {name} = %s", value)

    def patient(self, timezone: str = "UTC", consent: bool = True) -> UUID:
        patient_id: UUID = self.call("add_patient", "Ana", timezone, consent)["id"]
        return patient_id

    def call_log(
        self,
        patient_id: UUID,
        at: datetime = NOON,
        source: str = "upload",
        recording_ref: str | None = None,
        enrolment_id: UUID | None = None,
    ) -> UUID:
        made = self.call("record_call", patient_id, None, source, recording_ref, None, at, enrolment_id)
        call_log_id: UUID = made["record_call"]
        return call_log_id

    def open(self, call_log_id: UUID, worker: str = "test", lease_seconds: float = 60) -> Row:
        return self.call("open_check", call_log_id, ENCODER, worker, lease_seconds)

    def complete(
        self,
        claim: Row,
        voice: Sequence[float] = USUAL,
        snr_db: float | None = 30.0,
        recording: str = "",
        connection: psycopg.Connection[Any] | None = None,
        at: datetime | None = None,
    ) -> Row:
        """Complete a claimed check; each recording is another one unless it is named."""
        sha256 = hashlib.sha256((recording or f"recording {next(_recordings)}").encode()).digest()
        values = (claim["check_id"], claim["lease_token"], text(voice), sha256, 10.0, snr_db, "{}")
        return self.call("complete_check", *values, *([at] if at else []), connection=connection)

    def judge(
        self,
        patient_id: UUID,
        voice: Sequence[float] = USUAL,
        at: datetime = NOON,
        snr_db: float | None = 30.0,
        source: str = "upload",
        enrolment_id: UUID | None = None,
        recording: str = "",
    ) -> Row:
        """Bring one recording of a new call to its end."""
        claim = self.open(self.call_log(patient_id, at, source, enrolment_id=enrolment_id))
        return self.complete(claim, voice, snr_db, recording)

    def enrol(self, patient_id: UUID, *voices: Sequence[float], enrolment_id: UUID | None = None) -> list[Row]:
        """Enrol a patient from onboarding recordings of the days before NOON."""
        enrolment_id = enrolment_id or uuid4()
        return [
            self.judge(
                patient_id, voice, NOON - timedelta(days=30 - day), source="onboarding", enrolment_id=enrolment_id
            )
            for day, voice in enumerate(voices)
        ]

    def baseline(self, patient_id: UUID) -> Row | None:
        found = self.rows("select * from voice.baselines where patient_id = %s and superseded_at is null", patient_id)
        return found[0] if found else None

    def recorded(
        self, patient_id: UUID, at: datetime = NOON, voice: Sequence[float] = USUAL, source: str = "provider"
    ) -> UUID:
        """Judge a new call whose recording is kept; return the call."""
        call_log_id = self.call_log(patient_id, at, source, f"https://example.org/{next(_recordings)}.flac")
        self.complete(self.open(call_log_id), voice)
        return call_log_id

    def claims(self, encoder: str = ENCODER, count: int = 10, lease_seconds: float = 60) -> list[Row]:
        """Claim checks as a worker does."""
        with self.service.cursor(row_factory=dict_row) as cursor:
            values = [encoder, "worker", count, lease_seconds]
            return cursor.execute("select * from voice.claim_checks(%s, %s, %s, %s)", values).fetchall()
