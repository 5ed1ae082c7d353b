"""The journey of one call. The same eight lines stand in the README and at the top of the schema.

1 the call ends           functions/call-webhook     authenticates the provider, calls receive_call_report()
2 the call is a row       call_logs                  one row per call of the provider, however often it is reported
3 the recording is here   call_logs.recording_ref    copied to Storage, or an address given by an integrator
4 a check is queued       trigger request_check      a row of care.checks, in the same transaction
5 audio becomes a vector  service, checks/pipeline   fetch, decode, the patient's channel, speech, encode
6 the vector is judged    voice.complete_check()     stored, enrolled or scored, logged: one transaction
7 an alert is raised      public.caregiver_alerts    at most one unresolved alert per patient
8 the caregiver knows     functions/notify-caregiver sends, retries, records delivery; views show it at once
"""

from __future__ import annotations

import re
from uuid import uuid4

from fixtures.databases import Database
from fixtures.inputs import ROOT
from fixtures.running import running
from retrocare.cli.demo import RECORDINGS

STEP = re.compile(r"^(?:--)? *([1-8] [a-z].* {2,}.*)$", re.MULTILINE)


def test_the_eight_lines_are_the_same_everywhere() -> None:
    here = STEP.findall(__doc__ or "")
    assert len(here) == 8
    for path in (ROOT / "README.md", min((ROOT / "supabase" / "migrations").glob("*.sql"))):
        assert [line for line in STEP.findall(path.read_text()) if line in here] == here, path.name


def test_a_call_goes_all_the_way_as_far_as_one_machine_can(database: Database) -> None:
    """Steps 2 to 8, less those that need a provider: the caregiver sees the alert, and not the voiceprint."""
    with running(database) as app:
        patient_id, user_id = app.records.patient(), uuid4()
        app.records.do("insert into auth.users (id) values (%s)", user_id)
        app.records.do(
            "insert into public.patient_caregivers (patient_id, user_id) values (%s, %s)", patient_id, user_id
        )
        for name in ("01-enrol-monday", "02-enrol-tuesday", "03-enrol-wednesday", "10-another-voice"):
            url = app.host.offer(name, RECORDINGS / f"{name}.flac")
            with database.as_role("service_role") as integrator:
                call = integrator.execute(
                    """insert into call_logs (patient_id, provider, provider_call_id, recording_ref)
                       values (%s, 'phone', %s, %s) returning id""",
                    [patient_id, name, url],
                ).fetchone()
            assert call is not None
            assert app.records.one("select state from care.checks where call_log_id = %s", call[0]) == "queued"
            body = {"patientId": str(patient_id), "callLogId": str(call[0]), "audioUrl": url}
            assert app.client.post("/api/anomaly-check", json=body).json()["success"]
        with database.as_role("authenticated", str(user_id)) as caregiver:
            alerts = caregiver.execute("select level, state, cause from caregiver_alerts").fetchall()
            assert alerts == [("warning", "open", "another_voice")]
            assert caregiver.execute("select check_state from call_logs order by created_at").fetchall() == [
                ("enrolled",),
                ("scored",),
                ("scored",),
                ("scored",),
            ]
            assert caregiver.execute("select sample_count from patient_voice_baseline").fetchall() == [(3,)]
