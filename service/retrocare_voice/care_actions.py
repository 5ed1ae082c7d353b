"""What the operator's commands ask of the database: people, caregivers, alerts, messages, baselines, thresholds.

One Python function per SQL function called, as in ``database``, of which this is the operator's part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pgvector import Vector
from psycopg.types.json import Jsonb

Row = dict[str, Any]


@dataclass(frozen=True)
class Contact:
    """Who a caregiver is and how they are reached; of a change, None leaves what is known."""

    role: str | None = None
    name: str | None = None
    phone: str | None = None
    webhook_url: str | None = None
    user_id: str | None = None
    patient_known_as: str | None = None
    language: str | None = None


class CareActions(ABC):
    """Call the functions of the schema voice that the operator's commands need."""

    @abstractmethod
    def _rows(self, function: str, /, **arguments: object) -> list[Row]: ...

    def _row(self, function: str, /, **arguments: object) -> Row:
        return self._rows(function, **arguments)[0]

    def _values(self, function: str, /, **arguments: object) -> list[Any]:
        return [only(row) for row in self._rows(function, **arguments)]

    def _value(self, function: str, /, **arguments: object) -> Any:
        return only(self._row(function, **arguments))

    # people

    def add_patient(self, name: str, timezone: str, has_consent: bool, evidence: str | None = None) -> Row:
        return self._row("care.add_patient", name=name, timezone=timezone, has_consent=has_consent, evidence=evidence)

    def change_patient(
        self, patient_id: UUID, name: str | None, timezone: str | None, phone: str | None, silent_after_days: int | None
    ) -> Row:
        return self._row(
            "care.change_patient",
            patient_id=patient_id,
            name=name,
            timezone=timezone,
            phone=phone,
            silent_after_days=silent_after_days,
        )

    def patient_list(self) -> list[Row]:
        return self._rows("care.patient_list")

    def unknown_flags(self) -> list[Row]:
        return self._rows("care.unknown_flags")

    def set_consent(self, patient_id: UUID, is_given: bool, evidence: str | None = None) -> Row:
        return self._row("care.set_consent", patient_id=patient_id, is_given=is_given, evidence=evidence)

    def erasure_preview(self, patient_id: UUID) -> list[Row]:
        return self._rows("care.erasure_preview", patient_id=patient_id)

    def flag_patient(self, patient_id: UUID, flag: str, started_at: datetime) -> Row:
        return self._row("care.flag_patient", patient_id=patient_id, flag=flag, started_at=started_at)

    def covered_samples(self, patient_id: UUID, since: datetime) -> int:
        return int(self._value("voice.covered_samples", patient_id=patient_id, since=since))

    def unflag_patient(self, patient_id: UUID, flag: str | None, resolved_at: datetime) -> list[Row]:
        return self._rows("care.unflag_patient", patient_id=patient_id, flag=flag, resolved_at=resolved_at)

    def row_counts(self, patient_id: UUID) -> list[Row]:
        return self._rows("care.row_counts", patient_id=patient_id)

    # baselines

    def baseline_versions(self, patient_id: UUID, encoder: str | None = None) -> list[Row]:
        return self._rows("voice.baseline_versions", patient_id=patient_id, encoder=encoder)

    def restore_baseline(self, patient_id: UUID, version: int) -> int:
        return int(self._value("voice.restore_baseline", patient_id=patient_id, version=version))

    def withdraw_sample(self, patient_id: UUID, call_log_id: UUID) -> int:
        return int(self._value("voice.withdraw_sample", patient_id=patient_id, call_log_id=call_log_id))

    def compare_with_baseline(
        self, patient_id: UUID, encoder: str, embedding: npt.NDArray[np.float32], snr_db: float | None
    ) -> Row | None:
        """Return how a voice compares with a complete baseline; None where there is none."""
        found = self._rows(
            "voice.compare_with_baseline",
            patient_id=patient_id,
            encoder=encoder,
            embedding=Vector(embedding),
            snr_db=snr_db,
        )
        return next(iter(found), None)

    # caregivers

    def caregiver_list(self, patient_id: UUID | None) -> list[Row]:
        return self._rows("care.caregiver_list", patient_id=patient_id)

    def add_caregiver(self, patient_id: UUID, contact: Contact) -> Row:
        return self._row(
            "care.add_caregiver",
            patient_id=patient_id,
            role=contact.role,
            name=contact.name,
            phone=contact.phone,
            webhook_url=contact.webhook_url,
            user_id=contact.user_id,
            patient_known_as=contact.patient_known_as,
            language=contact.language,
        )

    def change_caregiver(self, caregiver_id: UUID, contact: Contact) -> Row:
        return self._row(
            "care.change_caregiver",
            caregiver_id=caregiver_id,
            role=contact.role,
            name=contact.name,
            phone=contact.phone,
            webhook_url=contact.webhook_url,
            user_id=contact.user_id,
            patient_known_as=contact.patient_known_as,
            language=contact.language,
        )

    def remove_caregiver(self, caregiver_id: UUID) -> None:
        self._row("care.remove_caregiver", caregiver_id=caregiver_id)

    # alerts and messages

    def alert_list(self, patient_id: UUID | None, is_resolved_shown: bool, maximum_rows: int) -> list[Row]:
        return self._rows(
            "care.alert_list",
            patient_id=patient_id,
            is_resolved_shown=is_resolved_shown,
            maximum_rows=maximum_rows,
        )

    def acknowledge_alert(self, alert_id: UUID) -> Row:
        return self._row("care.acknowledge_alert", alert_id=alert_id)

    def resolve_alert(self, alert_id: UUID, outcome: str, note: str | None) -> Row:
        return self._row("care.resolve_alert", alert_id=alert_id, outcome=outcome, notes=note)

    def delivery_list(self, states: list[str] | None, patient_id: UUID | None, maximum_rows: int) -> list[Row]:
        return self._rows("care.delivery_list", states=states, patient_id=patient_id, maximum_rows=maximum_rows)

    def requeue_deliveries(self, delivery_ids: list[int] | None) -> list[int]:
        return self._values("care.requeue_deliveries", delivery_ids=delivery_ids)

    # thresholds, and how it is all set up

    def policy(self, encoder: str) -> Row:
        return dict(self._value("voice.policy_values", encoder=encoder))

    def set_policy(self, encoder: str, changes: Row) -> Row:
        return dict(self._value("voice.set_policy", encoder=encoder, changes=Jsonb(changes)))

    def call_measures(self, call_log_id: UUID) -> Row:
        """Return what was measured of a call's recording; empty where nothing was."""
        return dict(self._value("care.call_measures", call_log_id=call_log_id) or {})

    def setup_report(self) -> Row:
        return dict(self._value("care.setup_report"))


def only(row: Row) -> Any:
    """Return the single value of a row."""
    [value] = row.values()
    return value
