"""A caregiver with supabase-py: signs in, looks, acknowledges, and is refused what is another family's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from postgrest.exceptions import APIError
from psycopg.conninfo import make_conninfo
from supabase import Client, create_client
from supabase.lib.client_options import SyncClientOptions

from fixtures.databases import Database
from fixtures.inputs import TESTS
from fixtures.records import USUAL, Records, at_cosine

BACKEND = TESTS / "functions" / "backend.py"
DENO = BACKEND.parent / "node_modules" / ".bin" / "deno"
NOW = datetime.now(UTC)
VIEWS = [
    "caregiver_patients", "voice_timeline", "alert_history", "recent_anomaly_logs", "patient_voice_baseline",
    "silent_patients", "alert_changes",
]  # fmt: skip


@dataclass
class Project:
    """The API that a dashboard asks, and the database behind it."""

    records: Records
    url: str
    publishable_key: str
    opened: ExitStack

    def ask(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        """Ask the accounts' API over plain HTTP."""
        headers = {"apikey": self.publishable_key, "content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/auth/v1/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            answered: dict[str, Any] = json.load(answer)
        return answered

    def client(self, token: str | None = None) -> Client:
        http = self.opened.enter_context(httpx.Client())
        client = create_client(self.url, self.publishable_key, SyncClientOptions(httpx_client=http))
        if token:
            client.postgrest.auth(token)
        return client


@dataclass
class Caregiver:
    client: Client
    patient_id: UUID
    alert_id: UUID
    log_id: UUID


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    if not DENO.exists():
        pytest.skip(f"{DENO} is missing: npm ci --prefix {DENO.parents[2]}")
    command = [sys.executable, str(BACKEND)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        with ExitStack() as opened:
            records = Records(Database(line["database"]["database"], login(line["database"]), opened))
            records.register()
            yield Project(records, line["api_url"], line["publishable_key"], opened)
        process.stdin.close()
        assert process.wait(60) == 0


def login(place: dict[str, Any]) -> Callable[[str, str | None], str]:
    return lambda database, user: make_conninfo(
        host=place["host"], port=place["port"], dbname=database, user=user or "supabase_admin"
    )


@pytest.fixture
def caregiver_of(project: Project) -> Callable[[str], Caregiver]:
    """Make a patient with a baseline, scores and an alert, and a caregiver who signs up and in."""

    def make(role: str) -> Caregiver:
        records = project.records
        credentials = {"email": f"{uuid4()}@example.org", "password": str(uuid4())}
        project.ask("signup", credentials)
        signed_in = project.ask("token?grant_type=password", credentials)
        patient_id = records.patient()
        records.enrol(patient_id, USUAL, USUAL, USUAL)
        claim = records.open(records.call_log(patient_id, NOW - timedelta(hours=1)))
        records.complete(claim, at_cosine(0.1))
        records.do(
            "insert into public.patient_caregivers (patient_id, user_id, role, name) values (%s, %s, %s, 'Rui')",
            patient_id, UUID(signed_in["user"]["id"]), role,
        )  # fmt: skip
        return Caregiver(
            client=project.client(signed_in["access_token"]),
            patient_id=patient_id,
            alert_id=records.one("select id from public.caregiver_alerts where patient_id = %s", patient_id),
            log_id=records.one("select id from public.voice_anomaly_logs where patient_id = %s", patient_id),
        )

    return make


def shown(client: Client, view: str) -> list[dict[str, Any]]:
    rows: list[Any] = client.table(view).select("*").execute().data
    return rows


def refusal(client: Client, function: str, **arguments: object) -> str:
    with pytest.raises(APIError) as raised:
        client.rpc(function, {name: str(value) for name, value in arguments.items()}).execute()
    return str(raised.value.code)


def test_a_caregiver_signs_in_looks_and_acknowledges(caregiver_of: Callable[[str], Caregiver]) -> None:
    rui, eva = caregiver_of("family"), caregiver_of("primary")
    for who in (rui, eva):
        for view in VIEWS:
            patients = {row["patient_id"] for row in shown(who.client, view)}
            assert patients == (set() if view == "silent_patients" else {str(who.patient_id)})
    [inbox] = shown(rui.client, "alert_history")
    assert (inbox["alert_id"], inbox["state"]) == (str(rui.alert_id), "open")
    rui.client.rpc("acknowledge_alert", {"alert_id": inbox["alert_id"]}).execute()
    [inbox] = shown(rui.client, "alert_history")
    assert (inbox["state"], inbox["acknowledged_by"]) == ("acknowledged", "Rui")
    noted = rui.client.table("voice_anomaly_logs").update({"notes": "A cold."}).eq("id", str(rui.log_id)).execute()
    assert len(noted.data) == 1


def test_what_is_another_familys_is_refused_or_not_there(caregiver_of: Callable[[str], Caregiver]) -> None:
    rui, eva = caregiver_of("primary"), caregiver_of("primary")
    assert refusal(rui.client, "acknowledge_alert", alert_id=eva.alert_id) == "PT404"
    assert refusal(rui.client, "export_patient", patient_id=eva.patient_id) == "PT404"
    assert refusal(rui.client, "withdraw_consent", patient_id=eva.patient_id) == "PT404"
    for patient_id in (rui.patient_id, eva.patient_id):
        assert refusal(rui.client, "erase_patient_voice", patient_id=patient_id, reason="forged") == "42501"
    rows = rui.client.table("voice_timeline").select("*").eq("patient_id", str(eva.patient_id)).execute()
    assert rows.data == []
    noted = rui.client.table("voice_anomaly_logs").update({"notes": "x"}).eq("id", str(eva.log_id)).execute()
    assert noted.data == []


def test_a_viewer_answers_no_alert(caregiver_of: Callable[[str], Caregiver]) -> None:
    eva = caregiver_of("viewer")
    assert refusal(eva.client, "acknowledge_alert", alert_id=eva.alert_id) == "PT403"


def test_without_signing_in_nothing_is_shown(project: Project, caregiver_of: Callable[[str], Caregiver]) -> None:
    eva = caregiver_of("primary")
    visitor = project.client()
    for view in VIEWS:
        with suppress(APIError):  # either answer is right
            assert shown(visitor, view) == []
    refusal(visitor, "acknowledge_alert", alert_id=eva.alert_id)
    forged = project.client("eyJhbGciOiJub25lIn0.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.")
    with pytest.raises(APIError):
        shown(forged, "caregiver_patients")
