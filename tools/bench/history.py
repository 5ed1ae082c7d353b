"""A history of scored calls, one a day of each patient, oldest first: every row that the calls would have left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bench.bulk import (
    CONSENTS,
    Field,
    Ids,
    Mixture,
    Vectors,
    copy_rows,
    documents,
    joined,
    near,
    numbers,
    rebuild,
    the_same,
    times,
    uuids,
    vectors,
    without_rules,
    written,
)  # fmt: skip
from fixtures.databases import Connection

ENCODER, DIMENSION = "ecapa-voxceleb-v1", 192
TABLES = (
    "public.patients", "public.call_logs", "voice.embeddings", "voice.baselines", "voice.baseline_samples",
    "public.judgements", "public.voice_anomaly_logs", "care.checks",
)  # fmt: skip
BATCH = 20_000
SAMPLES = 5  # the first calls of each patient
QUALITY = {
    "windows": 6, "outlier_windows": 0, "agreement": 0.9312456789, "clipped_share": 0.0, "channel": "customer",
    "channel_margin_db": None,
}  # fmt: skip
DETAIL = {"snr_db": 24.0, "added_to_baseline": False}


@dataclass(frozen=True)
class Patients:
    ids: Ids
    voices: Vectors
    calls: int  # of each
    until: float  # Unix time


@dataclass
class Batch:
    """So many calls one after the other; the same numbers give the same rows, for whichever table."""

    everybody: Patients
    first: int
    rows: int

    @cached_property
    def random(self) -> np.random.Generator:
        return np.random.default_rng([1, self.first])

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        return np.arange(self.first, self.first + self.rows)

    @cached_property
    def who(self) -> npt.NDArray[np.int64]:
        """Give the place of each call's patient; everybody is phoned once a day, always in this order."""
        return self.numbers % len(self.everybody.ids)

    @cached_property
    def patient_id(self) -> Ids:
        return self.everybody.ids[self.who]

    @cached_property
    def keys(self) -> tuple[Ids, Ids, Ids]:
        """Give the ids of call, log and lease."""
        random = np.random.default_rng([2, self.first])
        called, judged = self.called_at + 300, self.called_at + 360
        return uuids(random, self.rows, called), uuids(random, self.rows, judged), uuids(random, self.rows)

    @cached_property
    def called_at(self) -> npt.NDArray[np.float64]:
        count = len(self.everybody.ids)
        days = self.everybody.calls - self.numbers // count
        return self.everybody.until - 86_400.0 * days + 80_000.0 * self.who / count

    @cached_property
    def score(self) -> Field:
        return numbers(np.random.default_rng([3, self.first]).random(self.rows) * 0.2, ">f8")


def load_calls(connection: Connection, patients: int, calls: int) -> tuple[Vectors, float, dict[str, float]]:
    """Load so many calls of each patient; return the patients' voices, the seconds, and those of each index."""
    mixture = Mixture(DIMENSION)
    everybody = Patients(uuids(mixture.random, patients), mixture.voices(patients), calls, time.time())
    begun = time.monotonic()
    [policy_id] = connection.execute(
        "select care.keep_scoring_policy(voice.policy_values(encoder)) from voice.policies"
    ).fetchone() or [0]
    tables: dict[str, Callable[[Batch], Mapping[str, Field]]] = {
        "public.call_logs": _call_logs,
        "voice.embeddings": _embeddings,
        "public.judgements": lambda batch: _judgements(batch, policy_id),
        "public.voice_anomaly_logs": _logs,
        "care.checks": _checks,
    }
    with without_rules(connection, *TABLES):
        copy_rows(connection, "public.patients", patients, iter([_patients(everybody)]))
        copy_rows(connection, "voice.baselines", patients, iter([_baselines(everybody)]))
        copy_rows(connection, "voice.baseline_samples", patients, iter([_samples(everybody)]))
        for table, columns in tables.items():
            whole = patients * calls
            batches = (columns(Batch(everybody, first, min(BATCH, whole - first))) for first in range(0, whole, BATCH))
            copy_rows(connection, table, whole, batches)
        connection.execute(CONSENTS)
        for table, last in (("embeddings", patients * calls), ("baselines", patients)):
            connection.execute(f"select setval(pg_get_serial_sequence('voice.{table}', 'id'), {last})".encode())
    loaded = time.monotonic() - begun
    return everybody.voices, loaded, rebuild(connection, *TABLES)


def _patients(everybody: Patients) -> Mapping[str, Field]:
    rows = len(everybody.ids)
    names = np.char.zfill(np.arange(rows).astype("S9"), 9)
    long_ago = times(np.full(rows, everybody.until - 1e9))
    return {
        "id": everybody.ids,
        "name": names.view(np.uint8).reshape(rows, -1),
        "voice_consent_at": long_ago,
        "created_at": long_ago,
    }


def _baselines(everybody: Patients) -> Mapping[str, Field]:
    rows = len(everybody.ids)
    return {
        "id": numbers(np.arange(1, rows + 1), ">i8"),
        "patient_id": everybody.ids,
        "encoder": the_same(ENCODER, rows),
        "version": numbers(np.full(rows, SAMPLES), ">i4"),
        "embedding": vectors(everybody.voices),
        "sample_count": numbers(np.full(rows, SAMPLES), ">i4"),
        "spread_mean": numbers(np.full(rows, 0.08), ">f8"),
        "spread_deviation": numbers(np.full(rows, 0.02), ">f8"),
    }


def _samples(everybody: Patients) -> Mapping[str, Field]:
    rows = len(everybody.ids)
    places = np.tile(np.arange(rows), SAMPLES)
    return {
        "baseline_id": numbers(places + 1, ">i8"),
        "embedding_id": numbers(np.arange(1, rows * SAMPLES + 1), ">i8"),
        "patient_id": everybody.ids[places],
        "encoder": the_same(ENCODER, rows * SAMPLES),
    }


def _call_logs(batch: Batch) -> Mapping[str, Field]:
    rows, call_id = batch.rows, batch.keys[0]
    called = written(call_id)
    return {
        "id": call_id,
        "patient_id": batch.patient_id,
        "timestamp": times(batch.called_at),
        "created_at": times(batch.called_at + 300),
        "provider": the_same("vapi", rows),
        "provider_account": the_same("vapi", rows),
        "provider_call_id": called,
        "ended_reason": the_same("customer-ended-call", rows),
        "recording_ref": joined(
            the_same("storage:voice-recordings/", rows), written(batch.patient_id), the_same("/", rows), called,
            the_same(".wav", rows),
        ),
        "recording_channel": the_same("customer", rows),
        "check_state": the_same("scored", rows),
        "anomaly_score": batch.score,
    }  # fmt: skip


def _embeddings(batch: Batch) -> Mapping[str, Field]:
    rows = batch.rows
    return {
        "id": numbers(batch.numbers + 1, ">i8"),
        "patient_id": batch.patient_id,
        "call_log_id": batch.keys[0],
        "encoder": the_same(ENCODER, rows),
        "embedding": vectors(near(batch.everybody.voices[batch.who], 0.9, batch.random)),
        "audio_sha256": batch.random.integers(0, 256, (rows, 32), np.uint8),
        "speech_seconds": numbers(np.full(rows, 30.0), ">f8"),
        "snr_db": numbers(np.full(rows, 24.0), ">f8"),
        "quality": documents(QUALITY, rows),
        "created_at": times(batch.called_at + 360),
    }


def _judgements(batch: Batch, policy_id: int) -> Mapping[str, Field]:
    rows, (call_id, log_id, _) = batch.rows, batch.keys
    return {
        "id": log_id,
        "signal": the_same("voice", rows),
        "model": the_same(ENCODER, rows),
        "patient_id": batch.patient_id,
        "call_log_id": call_id,
        "occurred_at": times(batch.called_at),
        "score": batch.score,
        "severity": the_same("low", rows),
        "rule": the_same("fixed", rows),
        "policy_id": numbers(np.full(rows, policy_id), ">i4"),
        "created_at": times(batch.called_at + 360),
    }


def _logs(batch: Batch) -> Mapping[str, Field]:
    rows, (call_id, log_id, _) = batch.rows, batch.keys
    return {
        "id": log_id,
        "patient_id": batch.patient_id,
        "call_log_id": call_id,
        "timestamp": times(batch.called_at),
        "anomaly_score": batch.score,
        "raw_similarity": numbers(1 - batch.score.view(">f8")[:, 0], ">f8"),
        "normalized_score": batch.score,
        "adjusted_from": batch.score,
        "snr": numbers(np.full(rows, 24.0), ">f8"),
        "severity": the_same("low", rows),
        "verdict": the_same("as_usual", rows),
        "noise_adjusted": the_same(b"\0", rows),
        "encoder": the_same(ENCODER, rows),
        "embedding_id": numbers(batch.numbers + 1, ">i8"),
        "baseline_id": numbers(batch.who + 1, ">i8"),
        "baseline_version": numbers(np.full(rows, SAMPLES), ">i4"),
        "is_provisional": the_same(b"\0", rows),
        "added_to_baseline": the_same(b"\0", rows),
        "local_hour": numbers(np.full(rows, 13.5), ">f8"),
        "created_at": times(batch.called_at + 360),
    }


def _checks(batch: Batch) -> Mapping[str, Field]:
    rows, (call_id, _, lease) = batch.rows, batch.keys
    return {
        "call_log_id": call_id,
        "patient_id": batch.patient_id,
        "signal": the_same("voice", rows),
        "model": the_same(ENCODER, rows),
        "state": the_same("scored", rows),
        "attempts": numbers(np.ones(rows), ">i4"),
        "run_at": times(batch.called_at + 310),
        "worker": the_same("voice-7f9c6d-4211", rows),
        "lease_token": lease,
        "leased_until": times(batch.called_at + 400),
        "quality": documents(QUALITY, rows),
        "detail": documents(DETAIL, rows),
        "created_at": times(batch.called_at + 310),
        "finished_at": times(batch.called_at + 360),
    }
