"""What the operator's commands ask of the database: people, caregivers, alerts, messages, baselines, thresholds.

One Python function per SQL function called, as in ``database``, of which this is the operator's part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pgvector import Vector
from psycopg.types.json import Jsonb

Row = dict[str, Any]


class CareActions(ABC):
    """Call the functions of the schemas care and voice that the operator's commands need."""

    @abstractmethod
    def _rows(self, function: str, *arguments: object) -> list[Row]: ...

    def _row(self, function: str, *arguments: object) -> Row:
        return self._rows(function, *arguments)[0]

    # people

    def add_patient(self, name: str, timezone: str, has_consent: bool, evidence: str | None = None) -> Row:
        return self._row("care.add_patient", name, timezone, has_consent, evidence)

    def change_patient(
        self, patient_id: UUID, name: str | None, timezone: str | None, phone: str | None, silent_after_days: int | None
    ) -> Row:
        return self._row("care.change_patient", patient_id, name, timezone, phone, silent_after_days)

    def patient_list(self) -> list[Row]:
        return self._rows("care.patient_list")

    def unknown_flags(self) -> list[Row]:
        return self._rows("care.unknown_flags")

    def set_consent(self, patient_id: UUID, is_given: bool, evidence: str | None = None) -> Row:
        return self._row("care.set_consent", patient_id, is_given, evidence)

    def erasure_preview(self, patient_id: UUID) -> list[Row]:
        return self._rows("care.erasure_preview", patient_id)

    def flag_patient(self, patient_id: UUID, flag: str, started_at: datetime) -> Row:
        return self._row("care.flag_patient", patient_id, flag, started_at)

    def covered_samples(self, patient_id: UUID, since: datetime) -> int:
        return int(self._row("voice.covered_samples", patient_id, since)["covered_samples"])

    def unflag_patient(self, patient_id: UUID, flag: str | None, resolved_at: datetime) -> list[Row]:
        return self._rows("care.unflag_patient", patient_id, flag, resolved_at)

    def row_counts(self, patient_id: UUID) -> list[Row]:
        return self._rows("care.row_counts", patient_id)

    # baselines

    def baseline_versions(self, patient_id: UUID, encoder: str | None = None) -> list[Row]:
        return self._rows("voice.baseline_versions", patient_id, encoder)

    def restore_baseline(self, patient_id: UUID, version: int) -> int:
        return int(self._row("voice.restore_baseline", patient_id, version)["restore_baseline"])

    def withdraw_sample(self, patient_id: UUID, call_log_id: UUID) -> int:
        return int(self._row("voice.withdraw_sample", patient_id, call_log_id)["withdraw_sample"])

    def compare_with_baseline(
        self, patient_id: UUID, encoder: str, embedding: npt.NDArray[np.float32], snr_db: float | None
    ) -> Row | None:
        """Return how a voice compares with a complete baseline; None where there is none."""
        found = self._rows("voice.compare_with_baseline", patient_id, encoder, Vector(embedding), snr_db)
        return next(iter(found), None)

    # caregivers

    def caregiver_list(self, patient_id: UUID | None) -> list[Row]:
        return self._rows("care.caregiver_list", patient_id)

    def add_caregiver(self, patient_id: UUID, **contact: str | None) -> Row:
        return self._row("care.add_caregiver", patient_id, *_contact(contact))

    def change_caregiver(self, caregiver_id: UUID, **contact: str | None) -> Row:
        return self._row("care.change_caregiver", caregiver_id, *_contact(contact))

    def remove_caregiver(self, caregiver_id: UUID) -> None:
        self._row("care.remove_caregiver", caregiver_id)

    # alerts and messages

    def alert_list(self, patient_id: UUID | None, is_resolved_shown: bool, maximum_rows: int) -> list[Row]:
        return self._rows("care.alert_list", patient_id, is_resolved_shown, maximum_rows)

    def acknowledge_alert(self, alert_id: UUID) -> Row:
        return self._row("care.acknowledge_alert", alert_id)

    def resolve_alert(self, alert_id: UUID, outcome: str, note: str | None) -> Row:
        return self._row("care.resolve_alert", alert_id, outcome, note)

    def delivery_list(self, states: list[str] | None, patient_id: UUID | None, maximum_rows: int) -> list[Row]:
        return self._rows("care.delivery_list", states, patient_id, maximum_rows)

    def requeue_deliveries(self, delivery_ids: list[int] | None) -> list[int]:
        return [row["requeue_deliveries"] for row in self._rows("care.requeue_deliveries", delivery_ids)]

    # thresholds, and how it is all set up

    def policy(self, encoder: str) -> Row:
        return dict(self._row("voice.policy_values", encoder)["policy_values"])

    def set_policy(self, encoder: str, changes: Row) -> Row:
        return dict(self._row("voice.set_policy", encoder, Jsonb(changes))["set_policy"])

    def call_measures(self, call_log_id: UUID) -> Row:
        """Return what was measured of a call's recording; empty where nothing was."""
        return dict(self._row("care.call_measures", call_log_id)["call_measures"] or {})

    def setup_report(self) -> Row:
        return dict(self._row("care.setup_report")["setup_report"])


def _contact(contact: dict[str, str | None]) -> list[str | None]:
    names = ("role", "name", "phone", "webhook_url", "user_id", "patient_known_as", "language")
    return [contact.get(name) for name in names]
