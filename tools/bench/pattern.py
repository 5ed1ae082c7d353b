"""What a team would write by following the first draft, honestly: everything in Python, one statement after the other.

librosa loads the recording, the whole of it goes through ``EncoderClassifier.encode_batch``, vectors are JSON, cosine
and baseline are NumPy, and each statement is a round trip.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg.rows import dict_row

TABLES = """
create schema pattern;
create table pattern.patients (id uuid primary key, name text, timezone text, flags text[]);
create table pattern.call_logs (
    id uuid primary key, patient_id uuid references pattern.patients (id), "timestamp" timestamptz, anomaly_score float8
);
create table pattern.health_flags (patient_id uuid references pattern.patients (id), resolved_at timestamptz);
create index on pattern.health_flags (patient_id);
create table pattern.patient_voice_baseline (
    id bigserial primary key, patient_id uuid references pattern.patients (id), embedding jsonb
);
create index on pattern.patient_voice_baseline (patient_id);
create table pattern.voice_anomaly_logs (
    id bigserial primary key, patient_id uuid references pattern.patients (id),
    call_log_id uuid references pattern.call_logs (id), embedding jsonb, anomaly_score float8, raw_similarity float8,
    normalized_score float8, snr float8, alert_type text, created_at timestamptz default now()
);
create index on pattern.voice_anomaly_logs (patient_id, created_at desc);
create table pattern.daily_checkins (
    patient_id uuid references pattern.patients (id), date date, anomaly_score float8, primary key (patient_id, date)
);
"""

Vector = npt.NDArray[np.float32]


class Embedder:
    """Load once, as anybody would; embed a whole recording at a time."""

    def __init__(self, folder: Path) -> None:
        from retrocare.encoders.ecapa import Ecapa

        # From a folder, without the hub; the classifier is SpeechBrain's own EncoderClassifier.from_hparams(...).
        self.classifier = Ecapa(folder).classifier

    def embed(self, recording: Path) -> Vector:
        import librosa
        import torch

        samples, _ = librosa.load(recording, sr=16_000, mono=True)
        with torch.no_grad():
            embedding = self.classifier.encode_batch(torch.from_numpy(samples).unsqueeze(0))
        vector: Vector = embedding.squeeze().numpy()
        return vector


@dataclass
class Store:
    """Tables and statements of the first draft, for one connection in autocommit."""

    connection: psycopg.Connection[dict[str, Any]]

    @classmethod
    def opened(cls, url: str) -> Store:
        return cls(psycopg.connect(url, autocommit=True, row_factory=dict_row))

    def close(self) -> None:
        self.connection.close()

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        return self.connection.execute(statement.encode(), values).fetchall()

    def do(self, statement: str, *values: object) -> None:
        self.connection.execute(statement.encode(), values)

    def complete(self, call_log_id: UUID, embedding: Vector, snr_db: float | None) -> float | None:
        """Judge one call: read what is needed, compute, write what came of it; return the score."""
        [call] = self.rows("select * from pattern.call_logs where id = %s", call_log_id)
        patient_id, at = call["patient_id"], call["timestamp"]
        [patient] = self.rows("select * from pattern.patients where id = %s", patient_id)
        flags = self.rows(
            "select * from pattern.health_flags where patient_id = %s and resolved_at is null", patient_id
        )
        samples = self.rows("select embedding from pattern.patient_voice_baseline where patient_id = %s", patient_id)
        is_healthy = not flags and not patient["flags"]
        if not samples:
            if is_healthy:
                self._add_sample(patient_id, embedding)
            return None
        baseline = np.mean([np.array(sample["embedding"]) for sample in samples], axis=0)
        similarity = float(embedding @ baseline / np.linalg.norm(embedding) / np.linalg.norm(baseline))
        local = at.astimezone(ZoneInfo(patient["timezone"]))
        score = adjusted(1 - similarity, snr_db, local.hour + local.minute / 60)
        alert = "emergency" if score > 0.40 else "warning" if score > 0.25 else None
        self.do(
            """insert into pattern.voice_anomaly_logs (
                   patient_id, call_log_id, embedding, anomaly_score, raw_similarity, normalized_score, snr, alert_type
               ) values (%s, %s, %s, %s, %s, %s, %s, %s)""",
            patient_id, call_log_id, json.dumps(embedding.tolist()), 1 - similarity, similarity, score, snr_db, alert,
        )  # fmt: skip
        self.do("update pattern.call_logs set anomaly_score = %s where id = %s", score, call_log_id)
        if score > 0.40:
            self.do(
                """insert into pattern.daily_checkins values (%s, %s, %s)
                   on conflict (patient_id, date) do update
                   set anomaly_score = greatest(daily_checkins.anomaly_score, excluded.anomaly_score)""",
                patient_id, local.date(), score,
            )  # fmt: skip
        if is_healthy and score <= 0.25 and len(samples) < 5:
            self._add_sample(patient_id, embedding)
        return score

    def _add_sample(self, patient_id: UUID, embedding: Vector) -> None:
        self.do(
            "insert into pattern.patient_voice_baseline (patient_id, embedding) values (%s, %s)",
            patient_id, json.dumps(embedding.tolist()),
        )  # fmt: skip

    def fill(self, patients: list[UUID], calls: list[tuple[UUID, UUID]], voice: Vector) -> None:
        """Write patients with a baseline of five, and calls to be judged: (call, patient)."""
        self.connection.execute(TABLES.encode())
        noon = datetime.now(UTC).replace(hour=12) - timedelta(days=1)
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "insert into pattern.patients values (%s, 'Ana', 'UTC', '{}')", [(patient,) for patient in patients]
            )
            cursor.executemany(
                "insert into pattern.patient_voice_baseline (patient_id, embedding) values (%s, %s)",
                [(patient, json.dumps(voice.tolist())) for patient in patients for _ in range(5)],
            )
            cursor.executemany(
                "insert into pattern.call_logs values (%s, %s, %s)", [(call, patient, noon) for call, patient in calls]
            )
        self.connection.execute(b"analyze")


def adjusted(score: float, snr_db: float | None, hour: float) -> float:
    """Take off what noise and the time of day explain, as the mission has it."""
    score = min(1.0, max(0.0, score))
    if snr_db is not None and snr_db < 15:
        score = max(0.0, score - 0.20 * (15 - max(snr_db, 0)) / 15)
    for start in (6, 18):
        if start <= hour < start + 3:
            score *= 1 - (0.05 + 0.05 * (1 - abs(hour - start - 1.5) / 1.5))
    return score
