"""A patient of whom every table holds something, with a caregiver of every role, and neighbours who are strangers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from records import USUAL, Records, at_cosine

ROLES = ("viewer", "family", "primary", "clinician")


@dataclass
class Household:
    """Who is in it."""

    patient_id: UUID
    caregivers: dict[str, UUID]  # accounts, by role
    arguments: dict[str, object] = field(default_factory=dict)  # what functions may be asked about, by parameter


def household(records: Records) -> Household:
    """Make one, by the functions that make such rows wherever there are some."""
    now = datetime.now(UTC)
    patient_id = records.patient()
    made = Household(patient_id, {role: records.caregiver(patient_id, role, name=role) for role in ROLES})
    records.enrol(patient_id, USUAL, USUAL, USUAL)
    records.register("next-v1")  # under which the baseline is to be rebuilt
    records.judge(patient_id, at_cosine(0.3), now - timedelta(days=5))
    records.call("flag_patient", patient_id, "tired", now - timedelta(days=5))
    for days in (4, 3, 2):
        claim = records.open(records.call_log(patient_id, now - timedelta(days=days)))
        records.call("abstain_check", claim["check_id"], claim["lease_token"], "no_speech", "{}")
    claim = records.open(records.call_log(patient_id, now - timedelta(days=1)))
    records.call("fail_check", claim["check_id"], claim["lease_token"], "unreadable", "it cannot be read", True)
    records.report("call 1", patient_id=patient_id, recording_url="https://example.org/1.wav", at=now)
    records.report("call 2", patient_id=None, phone="+4930000", at=now)
    records.do(
        "insert into care.deletions (patient_id, kind, reference) values (%s, 'provider_call', 'vapi/0')", patient_id
    )
    records.do("insert into care.tombstones (patient_id, scope, reason) values (%s, 'voice', 'asked')", uuid4())
    records.do("insert into care.api_keys (name, key_sha256, scopes) values ('robot', %s, '{embed}')", b"\0" * 32)
    records.call("record_call", patient_id, None, "api", None, None, now, None, "robot", "first", b"\0" * 32)
    records.do("select care.note_job_failure('match_calls', 'vapi/1', '22P02', 'it cannot be read', now())")
    records.do(
        "insert into storage.objects (bucket_id, name) values ('voice-recordings', %s)", f"{patient_id}/recording.wav"
    )
    made.arguments = {
        "job": "advance_alerts",
        "patient_id": patient_id,
        "patient_ids": [patient_id],
        "call_log_id": records.one("select id from public.call_logs where provider_call_id = 'call 1'"),
        "alert_id": records.one("select id from public.caregiver_alerts where patient_id = %s", patient_id),
        "caregiver_id": records.one(
            "select id from public.patient_caregivers where user_id = %s", made.caregivers["viewer"]
        ),
    }
    return made
