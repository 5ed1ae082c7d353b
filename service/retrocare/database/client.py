"""One Python method per SQL function, called by the names of its arguments; a few make two calls in one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
from pgvector import Vector
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from retrocare.audio.decode import Channel
from retrocare.audio.speech import RecordingLimits
from retrocare.audio.stereo import Intervals, intervals_of
from retrocare.database.errors import translated
from retrocare.errors import NotAssessable

Row = dict[str, Any]

CONNECT_SECONDS = 10.0
LONGEST_LIST = 10_000  # rows of one answer
JOB_FAILED = -1  # what care.run_job returns where it could not even list what is due


@dataclass(frozen=True)
class Contact:
    """Who a caregiver is and how to reach them; in a change, None keeps the present value."""

    role: str | None = None
    name: str | None = None
    phone: str | None = None
    webhook_url: str | None = None
    user_id: str | None = None
    patient_known_as: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Claim:
    """A leased check (a row of voice.claim); without lease_token, one that is not ours."""

    check_id: int
    lease_token: UUID | None
    lost_leases: int  # above 0, the recording may crash the process
    state: str
    call_log_id: UUID
    recording_ref: str | None
    channel: Channel | None
    speech_intervals: Intervals
    limits: RecordingLimits


class Database:
    """Call the functions of the schemas care and voice as retrocare_service."""

    def __init__(
        self, pool: ConnectionPool[psycopg.Connection[DictRow]], service_url: str, owner_url: str | None = None
    ) -> None:
        self._pool = pool
        self.service_url = service_url
        self.owner_url = owner_url  # of the embedded database only

    def _rows(self, function: str, /, **arguments: object) -> list[Row]:
        with self._connection() as connection:
            return _call(connection, function, **arguments)

    def _row(self, function: str, /, **arguments: object) -> Row:
        return self._rows(function, **arguments)[0]

    def _values(self, function: str, /, **arguments: object) -> list[Any]:
        return [only(row) for row in self._rows(function, **arguments)]

    def _value(self, function: str, /, **arguments: object) -> Any:
        return only(self._row(function, **arguments))

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        with translated(), self._pool.connection(timeout=CONNECT_SECONDS) as connection:
            yield connection

    def release(self) -> Row:
        return self._row("care.release")

    # encoders and policies

    def register_encoder(self, encoder: str, dimension: int, window_seconds: float) -> bool:
        return bool(
            self._value("voice.register_encoder", encoder=encoder, dimension=dimension, window_seconds=window_seconds)
        )

    def add_calibration(self, encoder: str, document: Row) -> int:
        """Store a calibration; return its id. The same document is stored once."""
        return int(self._value("voice.add_calibration", encoder=encoder, parameters=Jsonb(document)))

    def use_calibration(self, encoder: str, calibration_id: int) -> None:
        self._value("voice.use_calibration", encoder=encoder, calibration_id=calibration_id)

    def ship_calibration(self, encoder: str, document: Row) -> int:
        """Store the calibration that comes with an encoder, and use it unless the encoder has one."""
        return int(self._value("voice.ship_calibration", encoder=encoder, parameters=Jsonb(document)))

    def archive_coverage(self, encoder: str) -> Row:
        """Return of how many stored calls a calibration can be made, and what is missing for one."""
        return dict(self._value("voice.archive_coverage", encoder=encoder))

    def calibrate_archive(self, encoder: str) -> Row:
        """Return a calibration that is estimated from stored calls. Raises: Conflict where there are too few."""
        return dict(self._value("voice.calibrate_archive", encoder=encoder))

    def calibration(self, encoder: str) -> Row | None:
        """Return the calibration in use, as a document with its id and limits; None: the encoder has none."""
        document: Row | None = self._value("voice.calibration_document", encoder=encoder)
        return document

    def active_encoder(self) -> str | None:
        encoder: str | None = self._value("voice.active_encoder")
        return encoder

    def limits(self, encoder: str) -> RecordingLimits:
        return _limits(self._row("voice.policy", encoder=encoder))

    def compare(
        self, baseline: list[float], current: list[float], snr: float | None, hour: float | None, encoder: str | None
    ) -> Row:
        return self._row(
            "voice.compare",
            baseline=Vector(baseline),
            current=Vector(current),
            snr_db=snr,
            local_hour=hour,
            encoder=encoder,
        )

    # checks, and what came of them

    def anomaly_logs(self, patient_ids: list[UUID], since: datetime | None) -> list[Row]:
        return self._rows("voice.anomaly_logs", patient_ids=patient_ids, since=since, maximum_rows=LONGEST_LIST)

    def open_recording(
        self,
        *,
        encoder: str,
        worker: str,
        lease_seconds: float,
        patient_id: UUID,
        call_log_id: UUID | None = None,
        source: str = "upload",
        recording_ref: str | None = None,
        channel: Channel | None = None,
        occurred_at: datetime | None = None,
        enrolment_id: UUID | None = None,
        caller: str = "",
        idempotency_key: str | None = None,
        request_sha256: bytes | None = None,
    ) -> Claim:
        """Lease the check of a call; where no call is given, make one for the recording in the same transaction.

        A repeated idempotency key of one caller stands for the same call.
        """
        with self._connection() as connection, connection.transaction():
            [call] = _call(
                connection,
                "care.record_call",
                patient_id=patient_id,
                call_log_id=call_log_id,
                source=source,
                recording_ref=recording_ref,
                recording_channel=channel,
                occurred_at=occurred_at,
                enrolment_id=enrolment_id,
                caller=caller,
                idempotency_key=idempotency_key,
                request_sha256=request_sha256,
            )
            [claim] = _call(
                connection,
                "voice.open_check",
                call_log_id=only(call),
                encoder=encoder,
                worker=worker,
                lease_seconds=lease_seconds,
            )
        return _claim(claim)

    def claim_checks(self, encoder: str, worker: str, count: int, lease_seconds: float) -> list[Claim]:
        found = self._rows(
            "voice.claim_checks", encoder=encoder, worker=worker, count=count, lease_seconds=lease_seconds
        )
        return [_claim(row) for row in found]

    def renew_lease(self, claim: Claim, lease_seconds: float) -> bool:
        return bool(
            self._value(
                "care.renew_lease",
                check_id=claim.check_id,
                lease_token=claim.lease_token,
                lease_seconds=lease_seconds,
            )
        )

    def release_check(self, claim: Claim) -> bool:
        return bool(self._value("care.release_check", check_id=claim.check_id, lease_token=claim.lease_token))

    def stored_result(self, check_id: int) -> Row:
        return self._row("voice.stored_result", check_id=check_id)

    def complete_check(
        self,
        claim: Claim,
        embedding: npt.NDArray[np.float32],
        audio_sha256: bytes,
        speech_seconds: float,
        snr_db: float | None,
        quality: Row,
    ) -> Row:
        return self._row(
            "voice.complete_check",
            check_id=claim.check_id,
            lease_token=claim.lease_token,
            embedding=Vector(embedding),
            audio_sha256=audio_sha256,
            speech_seconds=speech_seconds,
            snr_db=snr_db,
            quality=Jsonb(quality),
        )

    def abstain_check(self, claim: Claim, found: NotAssessable) -> Row:
        self._row(
            "care.abstain_check",
            check_id=claim.check_id,
            lease_token=claim.lease_token,
            reason=found.reason,
            quality=Jsonb(dict(found.measures)),
        )
        return self.stored_result(claim.check_id)

    def fail_check(self, claim: Claim, code: str, message: str, is_permanent: bool) -> Row:
        self._row(
            "care.fail_check",
            check_id=claim.check_id,
            lease_token=claim.lease_token,
            code=code,
            message=message,
            is_permanent=is_permanent,
        )
        return self.stored_result(claim.check_id)

    def call_measures(self, call_log_id: UUID) -> Row:
        """Return what was measured in a call's recording; empty where nothing was."""
        return dict(self._value("care.call_measures", call_log_id=call_log_id) or {})

    def check_list(self, states: list[str] | None, patient_id: UUID | None, maximum_rows: int) -> list[Row]:
        return self._rows("care.check_list", states=states, patient_id=patient_id, maximum_rows=maximum_rows)

    def requeue_checks(self, check_ids: list[int] | None, reasons: list[str] | None) -> list[int]:
        return self._values("care.requeue_checks", check_ids=check_ids, reasons=reasons)

    def open_backfill(self, encoder: str, is_history: bool, maximum_rows: int) -> int:
        return int(
            self._value("voice.open_backfill", encoder=encoder, is_history=is_history, maximum_rows=maximum_rows)
        )

    def waiting_backfill(self, encoder: str) -> int:
        return int(self._value("voice.waiting_backfill", encoder=encoder))

    def rebuild_baselines(self, encoder: str, maximum_rows: int) -> int:
        return int(self._value("voice.rebuild_baselines", encoder=encoder, maximum_rows=maximum_rows))

    def backfill_status(self, encoder: str) -> Row:
        return self._row("voice.backfill_status", encoder=encoder)

    def hold_calls(self, hold_seconds: float) -> None:
        self._row("voice.hold_calls", hold_seconds=hold_seconds)

    def unrecoverable_baselines(self, encoder: str) -> list[Row]:
        return self._rows("voice.unrecoverable_baselines", encoder=encoder)

    def activate_encoder(self, encoder: str, accepts_unrecoverable: bool) -> int:
        return int(self._value("voice.activate_encoder", encoder=encoder, accepts_unrecoverable=accepts_unrecoverable))

    # privacy, and who may call

    def erase(self, patient_id: UUID, reason: str, person: bool) -> Row:
        function = "care.erase_patient" if person else "care.erase_patient_voice"
        return dict(self._value(function, patient_id=patient_id, reason=reason))

    def export_patient(self, patient_id: UUID) -> Row:
        return dict(self._value("care.export_patient", patient_id=patient_id))

    def audit_trail(self, patient_id: UUID | None, since: datetime | None) -> list[Row]:
        return self._rows("care.audit_trail", patient_id=patient_id, since=since, maximum_rows=LONGEST_LIST)

    def tombstones(self) -> list[Row]:
        return self._rows("care.tombstone_list")

    def replay_tombstone(self, id: str, patient_id: str, scope: str, reason: str, erased_at: str) -> bool:
        return bool(
            self._value(
                "care.replay_tombstone",
                id=id,
                patient_id=patient_id,
                scope=scope,
                reason=reason,
                erased_at=erased_at,
            )
        )

    def add_api_key(self, name: str, scopes: list[str], key_sha256: bytes) -> Row:
        return self._row("care.add_api_key", name=name, scopes=scopes, key_sha256=key_sha256)

    def revoke_api_key(self, name: str) -> bool:
        return bool(self._value("care.revoke_api_key", name=name))

    def api_keys(self) -> list[Row]:
        return self._rows("care.api_key_list")

    def use_api_key(self, key_sha256: bytes, scope: str) -> Row | None:
        """Return whose key this is and whether it has the scope; None for an unknown key."""
        return next(iter(self._rows("care.use_api_key", key_sha256=key_sha256, scope=scope)), None)

    # time, and the operator

    def due_jobs(self, *, all_of_them: bool = False) -> list[str]:
        """Return the jobs that are due, or all of them, in the order in which to run them."""
        if all_of_them:
            return self._values("care.due_jobs", at="infinity")
        return self._values("care.due_jobs")

    def run_job(self, job: str) -> int | None:
        """Run a job; return how much it did, JOB_FAILED, or None while another run is under way."""
        done: int | None = self._value("care.run_job", job=job)
        return done

    def due_work(self) -> Row:
        return self._row("care.due_work")

    def operator_issues(self) -> list[Row]:
        return self._rows("care.operator_issues")

    def pipeline_health(self) -> list[Row]:
        return self._rows("care.pipeline_health")

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
        """Compare a voice with the patient's complete baseline; None where there is none."""
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

    def replay_policy(self, patient_id: UUID | None, organisation_id: UUID | None, changes: Row) -> Row:
        """Return what another policy would have done with the stored calls, beside what happened."""
        return dict(
            self._value(
                "voice.replay_policy", patient_id=patient_id, organisation_id=organisation_id, changes=Jsonb(changes)
            )
        )

    def set_warnings_per_year(self, patient_id: UUID | None, warnings_per_year: float) -> None:
        """Set how many warnings a year by chance are accepted: for a patient, or for the default organisation."""
        if patient_id is None:
            self._value("care.set_organisation_warnings", warnings_per_year=warnings_per_year)
        else:
            self._value("care.set_warnings_per_year", patient_id=patient_id, warnings_per_year=warnings_per_year)

    def warning_budgets(self, patient_id: UUID | None) -> list[Row]:
        return self._rows("care.warning_budget_list", patient_id=patient_id)

    def setup_report(self) -> Row:
        return dict(self._value("care.setup_report"))


def _call(connection: psycopg.Connection[DictRow], function: str, /, **arguments: object) -> list[Row]:
    """Call a function by the names of its arguments, so that a release may add arguments with defaults anywhere."""
    named = [f'"{name}" => %s{"::extensions.vector" * isinstance(a, Vector)}' for name, a in arguments.items()]
    values = [argument.to_text() if isinstance(argument, Vector) else argument for argument in arguments.values()]
    return connection.execute(f"select * from {function}({', '.join(named)})".encode(), values).fetchall()


def _claim(row: Row) -> Claim:
    intervals = intervals_of(row["speech_intervals"])
    known = row | {"channel": row["recording_channel"], "speech_intervals": intervals, "limits": _limits(row)}
    return Claim(**{field.name: known[field.name] for field in fields(Claim)})


def _limits(row: Row) -> RecordingLimits:
    return RecordingLimits(**{field.name: row[field.name] for field in fields(RecordingLimits)})


def only(row: Row) -> Any:
    """Return the single value of a row."""
    [value] = row.values()
    return value
