"""The command line, as a user types it: real files, a real database, a process of its own where that says more."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from fixtures.commands import Run, bare_environment, in_process, objects, recording
from fixtures.databases import Database, short_folder
from fixtures.inputs import RETROCARE, ROOT
from fixtures.records import Records
from retrocare.cli.demo import RECORDINGS
from retrocare.settings import Settings

START_SECONDS = 120


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as found:
        yield found


@pytest.fixture(scope="module")
def retrocare(records: Records) -> Run:
    """Run a command on the module's database, in this process."""
    return in_process(DATABASE_URL=records.database.service_url)


@pytest.fixture(scope="module")
def environment(records: Records) -> dict[str, str]:
    return bare_environment(DATABASE_URL=records.database.service_url)


@pytest.fixture(scope="module")
def own_process(environment: dict[str, str], folder: Path) -> Run:
    """Run a command on the module's database as a user does: where the process, its start or its environment count."""

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command, given = [RETROCARE, *words], environment | more
        return subprocess.run(
            command, cwd=folder, env=given, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )

    return run


def test_a_patient_is_added_enrolled_judged_and_looked_up(own_process: Run) -> None:
    added = objects(own_process("patient", "add", "Ana", "--timezone", "Europe/Lisbon", "--consent", "--json").stdout)
    assert (added[0]["name"], added[0]["timezone"]) == ("Ana", "Europe/Lisbon")
    enrolled = own_process(
        "enroll", "Ana", *map(recording, ["01-enrol-monday", "02-enrol-tuesday", "03-enrol-wednesday"])
    )
    assert enrolled.returncode == 0, enrolled.stderr
    assert enrolled.stdout.count("enrolled") == 3
    judged = own_process(
        "check", added[0]["id"], recording("10-another-voice"), "--at", "2026-11-20T12:00:00", "--json"
    )
    [row] = objects(judged.stdout)
    assert (row["state"], row["verdict"], row["alert_type"]) == ("scored", "another_voice", "warning")
    logs = objects(own_process("logs", "Ana", "--json").stdout)
    assert [log["id"] for log in logs] == [row["log_id"]]
    assert logs[0]["local_hour"] == 12.0
    assert "warning" in own_process("patient", "list").stdout


def test_embed_prints_what_is_promised_and_goes_on_after_a_file_that_fails(retrocare: Run, folder: Path) -> None:
    text = folder / "notes.txt"
    text.write_text("no recording")
    done = retrocare("embed", "missing.wav", str(text), recording("12-silence"), recording("01-enrol-monday"), "--json")
    assert done.returncode == 1
    rows = objects(done.stdout)
    keys = ["file", "encoder", "embedding", "speech_seconds", "snr_db", "agreement", "channel", "reason"]
    assert [list(row) for row in rows] == [keys] * 3
    assert [row["reason"] for row in rows] == ["undecodable", "no_speech", None]
    assert [row["embedding"] and len(row["embedding"]) for row in rows] == [None, None, 256]
    assert "missing.wav cannot be read: No such file or directory" in done.stderr


def test_check_goes_on_after_a_file_that_fails_and_exits_with_1(retrocare: Run) -> None:
    retrocare("patient", "add", "Rui", "--consent")
    done = retrocare("check", "Rui", "missing.wav", recording("01-enrol-monday"), "--json")
    assert done.returncode == 1
    assert [row["state"] for row in objects(done.stdout)] == ["enrolled"]


def test_checks_are_listed_by_state_and_dead_ones_queued_again(retrocare: Run, records: Records) -> None:
    retrocare("patient", "add", "Gil", "--consent")
    patient_id = records.one("select id from public.patients where name = 'Gil'")
    records.call_log(patient_id, recording_ref="https://127.0.0.2/call.wav")
    [claim] = records.rows("select * from voice.claim_checks('ge2e-v2', 'test', 1, 60)")
    records.call("fail_check", claim["check_id"], claim["lease_token"], "recording_not_found", "gone", True)
    [listed] = objects(retrocare("checks", "--patient", "Gil", "--json").stdout)
    assert (listed["state"], listed["reason"], listed["error_code"]) == (
        "dead",
        "recording_unavailable",
        "recording_not_found",
    )
    assert objects(retrocare("checks", "--state", "leased", "--patient", "Gil", "--json").stdout) == []
    assert objects(retrocare("checks", "--requeue", str(listed["id"]), "--json").stdout) == [{"queued": listed["id"]}]
    [again] = objects(retrocare("checks", "--patient", "Gil", "--json").stdout)
    assert (again["state"], again["attempts"]) == ("queued", 0)


def test_the_operators_issues_are_listed_and_running_the_jobs_mends_what_can_be(
    retrocare: Run, records: Records
) -> None:
    now = datetime.now(UTC)
    records.report("call-1", phone="+4930777777", started_at=now, ended_at=now, at=now)
    listed = [row for row in objects(retrocare("issues", "--json").stdout) if row["kind"] == "unmatched_call"]
    assert [(row["subject"], row["code"]) for row in listed] == [("vapi call-1", "patient_unknown")]
    assert "unmatched_call  vapi call-1" in retrocare("issues").stdout
    retrocare("patient", "add", "Ida", "--consent")
    records.do("update public.patients set phone = '+4930777777' where name = 'Ida'")
    assert json.loads(retrocare("run-jobs", "--json").stdout)["match_calls"] == 1
    assert "vapi call-1" not in retrocare("issues").stdout
    assert "match_calls" in retrocare("run-jobs").stdout


def test_a_patient_is_exported_and_erased_and_the_tombstones_replayed(
    retrocare: Run, records: Records, tmp_path: Path
) -> None:
    retrocare("patient", "add", "Leo", "--consent")
    retrocare("enroll", "Leo", recording("01-enrol-monday"))
    exported = json.loads(retrocare("patient", "export", "Leo").stdout)
    assert len(exported["voice.embeddings"]) == 1
    assert "embedding" not in exported["voice.embeddings"][0]
    refused = retrocare("patient", "erase", "Leo", "--reason", "asked for")
    assert "not_confirmed" in refused.stderr
    assert len(json.loads(retrocare("patient", "export", "Leo").stdout)["voice.embeddings"]) == 1
    erased = objects(retrocare("patient", "erase", "Leo", "--reason", "asked for", "--yes", "--json").stdout)
    assert {row["erased"]: row["rows"] for row in erased}["embeddings"] == 1
    kept = tmp_path / "tombstones"
    kept.write_text(retrocare("tombstones").stdout)
    [tombstone] = [line for line in map(json.loads, kept.read_text().splitlines()) if line["reason"] == "asked for"]
    assert tombstone["scope"] == "voice"
    asked = retrocare("tombstones", "--replay", str(kept))
    assert (asked.returncode, "holds 1 tombstones" in asked.stderr, "not_confirmed" in asked.stderr) == (1, True, True)
    assert "0 erasures were replayed" in retrocare("tombstones", "--replay", str(kept), "--yes").stderr
    other = {**tombstone, "id": str(uuid4()), "patient_id": str(uuid4())}
    kept.write_text(json.dumps(other))
    assert "1 erasures were replayed" in retrocare("tombstones", "--replay", str(kept), "--yes").stderr
    kept.write_text("nonsense")
    assert "line 1 is no tombstone" in retrocare("tombstones", "--replay", str(kept), "--yes").stderr
    actions = [row["action"] for row in objects(retrocare("audit", "--patient", "Leo", "--json").stdout)]
    assert {"consent_given", "exported", "signal_erased"} <= set(actions)
    retrocare("patient", "erase", "Leo", "--reason", "moved away", "--person", "--yes")
    assert records.one("select count(*) from public.patients where name = 'Leo'") == 0


def test_a_key_is_shown_once_and_revoked(retrocare: Run) -> None:
    [made] = objects(retrocare("key", "add", "backend", "--scope", "check", "--scope", "read", "--json").stdout)
    assert made["key"].startswith("rcv_")
    assert made["scopes"] == ["check", "read"]
    listed = retrocare("key", "list", "--json").stdout
    assert made["key"] not in listed
    assert objects(listed)[0]["name"] == "backend"
    assert "A key that stands is called 'backend'" in retrocare("key", "add", "backend", "--scope", "read").stderr
    kept = retrocare("key", "revoke", "backend")
    assert (kept.returncode, "allows check, read" in kept.stderr, "not_confirmed" in kept.stderr) == (1, True, True)
    assert objects(retrocare("key", "list", "--json").stdout)[0]["revoked_at"] is None
    assert retrocare("key", "revoke", "backend", "--yes").returncode == 0
    assert "unknown_key" in retrocare("key", "revoke", "backend").stderr
    assert "one of embed" in retrocare("key", "add", "x", "--scope", "all").stderr


def test_a_patient_is_flagged_and_unflagged(retrocare: Run) -> None:
    retrocare("patient", "add", "Eva", "--consent")
    [flagged] = objects(retrocare("patient", "flag", "Eva", "fever", "--json").stdout)
    assert (flagged["flag"], flagged["resolved_at"]) == ("fever", None)
    [held] = objects(retrocare("check", "Eva", recording("01-enrol-monday"), "--json").stdout)
    assert (held["state"], held["reason"]) == ("held", "sick_without_baseline")
    [well] = objects(retrocare("patient", "unflag", "Eva", "--json").stdout)
    assert well["resolved_at"] is not None


def test_a_name_that_two_patients_share_is_refused(retrocare: Run) -> None:
    for _ in range(2):
        retrocare("patient", "add", "Lia")
    done = retrocare("logs", "Lia")
    assert (done.returncode, "Several patients are called 'Lia'" in done.stderr) == (1, True)


def test_a_time_that_is_given_counts_in_utc(retrocare: Run) -> None:
    retrocare("patient", "add", "Noa", "--consent")
    [flagged] = objects(retrocare("patient", "flag", "Noa", "fever", "--since", "2020-02-01", "--json").stdout)
    assert flagged["started_at"] == "2020-02-01 00:00:00+00:00"
    retrocare("patient", "unflag", "Noa", "--since", "2020-02-02")
    for day, name in (("2020-01-01", "01-enrol-monday"), ("2020-01-02", "10-another-voice")):
        retrocare("check", "Noa", recording(name), "--at", day)
    assert len(objects(retrocare("logs", "Noa", "--json").stdout)) == 1
    assert objects(retrocare("logs", "Noa", "--days", "7", "--json").stdout) == []


def test_embed_exits_with_1_where_nothing_could_be_judged(retrocare: Run) -> None:
    assert retrocare("embed", recording("12-silence")).returncode == 1


def test_consent_is_given_and_withdrawn(retrocare: Run) -> None:
    retrocare("patient", "add", "Ivo")
    [skipped] = objects(retrocare("check", "Ivo", recording("01-enrol-monday"), "--json").stdout)
    assert skipped["reason"] == "no_consent"
    assert objects(retrocare("patient", "consent", "Ivo", "--json").stdout)[0]["voice_consent_at"]


def test_at_80_columns_no_id_is_folded_and_a_file_is_its_name(retrocare: Run, records: Records) -> None:
    retrocare("patient", "add", "Ula", "--consent")
    narrow = {"COLUMNS": "80", "TTY_COMPATIBLE": "1", "NO_COLOR": "1"}
    checked = retrocare("check", "Ula", recording("01-enrol-monday"), **narrow)
    assert "01-enrol-monday.flac" in checked.stdout
    assert str(RECORDINGS) not in checked.stdout
    patient_id = str(records.one("select id from public.patients where name = 'Ula'"))
    call_log_id = str(records.one("select id from public.call_logs where patient_id = %s", patient_id))
    for words, id in ((["patient", "list"], patient_id), (["checks", "--patient", "Ula"], call_log_id)):
        on_terminal = retrocare(*words, **narrow).stdout.splitlines()
        assert [line for line in on_terminal if line.endswith(id)] != [], on_terminal
        assert max(map(len, on_terminal)) <= 90, on_terminal  # with what makes a name bold
        piped = retrocare(*words, COLUMNS="80").stdout
        assert id in piped.split(), piped


def test_a_row_is_printed_as_soon_as_its_file_is_done(environment: dict[str, str], folder: Path) -> None:
    pipe = folder / "slow.flac"
    os.mkfifo(pipe)
    command = [RETROCARE, "embed", recording("12-silence"), str(pipe), "--json"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["reason"] == "no_speech"
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["logs", "Nobody"], 1, "unknown_patient"),
        (["check", "Nobody"], 2, "Missing argument"),
        (["embed", "x.wav", "--channel", "middle"], 2, "customer, left, right, mono"),
        (["patient", "add", "Zoe", "--timezone", "Mars/Olympus"], 1, "No time zone is called 'Mars/Olympus'"),
        (["alert", "resolve", "Zoe", "--outcome", "fine"], 2, "wrong_recording"),
        (["caregiver", "remove", "Nobody"], 1, "unknown_caregiver"),
        (["sing"], 2, "No such command"),
        (["checks", "--state", "nonsense"], 2, "--state is queued"),
        (["patient", "add", " "], 2, "a patient has a name"),
        (["migrate"], 1, "not_the_owner"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(retrocare: Run, words: list[str], status: int, told: str) -> None:
    done = retrocare(*words)
    assert (done.returncode, told in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_is_wrong_is_named(retrocare: Run) -> None:
    for name, value in {"PORT": "many", "RETROCARE_LEASE_SECONDS": "-1"}.items():
        done = retrocare("patient", "list", **{name: value})
        assert done.returncode == 1
        assert f"{name}:" in done.stderr


def test_an_encoder_that_nobody_knows_is_refused_where_one_is_needed(own_process: Run, tmp_path: Path) -> None:
    for command in (("check", "Ana", str(tmp_path / "call.wav")), ("backfill",), ("start",)):
        done = own_process(*command, RETROCARE_ENCODER="mfcc", PORT="0")
        assert done.returncode == 1
        assert "No encoder is called 'mfcc'" in done.stderr
        assert "RETROCARE_ENCODER is auto, ecapa, ge2e, or an id" in done.stderr


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(own_process: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = own_process(
            "start", "--port", str(taken.getsockname()[1]), DATABASE_URL="postgresql://nobody@127.0.0.1:1/x"
        )
    assert (done.returncode, "address already in use" in done.stderr) == (1, True), done.stderr
    assert "database" not in done.stderr


def test_a_database_that_is_away_is_told(own_process: Run) -> None:
    done = own_process("patient", "list", DATABASE_URL="postgresql://retrocare_service:hidden@127.0.0.1:1/postgres")
    assert (done.returncode, "database_unavailable" in done.stderr) == (1, True)
    assert "hidden" not in done.stderr


def test_an_encoder_that_is_named_and_absent_is_an_error(own_process: Run, folder: Path) -> None:
    done = own_process(
        "embed", recording("01-enrol-monday"), RETROCARE_ENCODER="ecapa", RETROCARE_ECAPA_DIR=str(folder)
    )
    assert done.returncode == 1
    assert "configuration_error" in done.stderr


def test_the_service_refuses_to_be_reachable_without_a_key(own_process: Run) -> None:
    done = own_process("start", "--host", "0.0.0.0")
    assert (done.returncode, "RETROCARE_API_KEY" in done.stderr) == (1, True)


def test_doctor_says_what_is_there_and_what_is_missing(own_process: Run) -> None:
    rows = {row["part"]: row for row in objects(own_process("doctor", "--json").stdout)}
    assert {rows[part]["state"] for part in ("Python", "decoder", "database", "speech detection", "encoder")} == {"ok"}
    assert rows["encoder"]["detail"].startswith("ge2e-v2, because it was asked for by name; it runs in ")
    assert (rows["fetching"]["state"], "RETROCARE_FETCH_HOSTS" in rows["fetching"]["detail"]) == ("absent", True)
    assert "; release 1.0.0; this program is 1.0.0" in rows["database"]["detail"]


@pytest.mark.parametrize("name", ["ge2e-v2", "wav2vec", "auto"])
def test_doctor_tries_the_encoder_that_a_service_would_run_on_this_database(
    own_process: Run, database: Database, name: str
) -> None:
    Records(database).register("ge2e-v1", 256)
    done = own_process("doctor", "--json", RETROCARE_ENCODER=name, DATABASE_URL=database.service_url)
    row = {row["part"]: row for row in objects(done.stdout)}["encoder"]
    if name == "auto":
        assert (row["state"], row["detail"].partition(";")[0]) == (
            "ok", "ge2e-v1, because the database already uses ge2e-v1"
        )  # fmt: skip
    else:
        assert (done.returncode, row["state"]) == (1, "missing")
        named = "No encoder is called 'wav2vec'" if name == "wav2vec" else "ge2e-v2 is not the active encoder"
        assert row["detail"].startswith(named)


def test_doctor_gives_up_on_a_silent_network_says_what_it_does_and_misses_nothing(own_process: Run) -> None:
    """A host that takes connections and never answers: of all, Storage, edge functions and the model hub."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        given = {"SUPABASE_URL": url, "SUPABASE_SECRET_KEY": "word", "RETROCARE_FUNCTIONS_URL": url, "HF_ENDPOINT": url}
        given |= {"RETROCARE_ENCODER": "auto"}
        begun = time.monotonic()
        done = own_process("doctor", "--json", **given)
        assert time.monotonic() - begun < 20
    rows = {row["part"]: row["state"] for row in objects(done.stdout)}
    assert (done.returncode, rows["Storage"], rows["edge functions"]) == (1, "missing", "missing")
    assert "Looking at Storage ..." in done.stderr


def test_migrate_with_the_owners_login_says_what_it_did(retrocare: Run, records: Records) -> None:
    done = retrocare("migrate", "--url", records.database.owner_url)
    assert (done.returncode, done.stdout) == (0, "0 migrations applied; the database is up to date.\n")


def embedded(folder: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    environment = bare_environment(RETROCARE_DATA_DIR=str(folder / "data")) | more
    return subprocess.Popen([RETROCARE, *words], cwd=folder, env=environment, stdout=-1, stderr=-1, text=True)


def no_server_left(folder: Path) -> bool:
    return not any(
        str(folder) in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    )


def test_without_a_database_url_commands_share_an_embedded_one_and_the_last_stops_it(data_folder: Path) -> None:
    first = [embedded(data_folder, "patient", "add", name, "--json") for name in ("Ana", "Rui", "Eva")]
    assert [process.communicate(timeout=START_SECONDS)[0] != "" for process in first] == [True] * 3
    listed, _ = embedded(data_folder, "patient", "list", "--json").communicate(timeout=START_SECONDS)
    assert sorted(row["name"] for row in objects(listed)) == ["Ana", "Eva", "Rui"]
    again, _ = embedded(data_folder, "migrate").communicate(timeout=START_SECONDS)
    assert again == "0 migrations applied; the database is up to date.\n"
    address, _ = embedded(data_folder, "url", "--json").communicate(timeout=START_SECONDS)
    assert json.loads(address)["url"].startswith("postgresql://retrocare_service@/")
    assert no_server_left(data_folder)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_start_serves_until_it_is_told_to_stop(data_folder: Path, end: signal.Signals) -> None:
    process = embedded(data_folder, "start", "--port", "0")
    try:
        assert process.stderr is not None
        said: list[str] = []
        while '"event": "ready"' not in (said[-1] if said else ""):
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
        assert any("the encoder is ge2e-v2, because it was asked for by name" in line for line in said)
        url = json.loads(said[-1])["url"]
        assert httpx.get(f"{url}/readyz").json() == {"status": "ready", "encoder": "ge2e-v2"}
        process.send_signal(end)
        begun = time.monotonic()
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 30
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    assert no_server_left(data_folder)


def test_the_demo_runs_twice_and_every_score_in_it_was_stored_by_sql(data_folder: Path) -> None:
    for _ in range(2):
        output, complaint = embedded(data_folder, "demo", "--json").communicate(timeout=START_SECONDS)
        told: dict[str, Any] = json.loads(output)
        outcomes = [(call["outcome"], call["judged"]) for call in told["calls"]]
        assert outcomes == [
            *[("enrolled", "")] * 3,
            *[("scored", "low")] * 6,
            ("scored", "another voice, medium, warning"),
            *[("not_assessable", "no_speech")] * 2,
        ], complaint
        assert {row["relation"]: row["row_count"] for row in told["rows"]}["public.caregiver_alerts"] == 1
    listed, _ = embedded(data_folder, "patient", "list", "--json").communicate(timeout=START_SECONDS)
    assert listed == "", "the demo's people are on the operator's list"
    demo = {"RETROCARE_DATA_DIR": str(data_folder / "data" / "demo")}
    logs, _ = embedded(data_folder, "logs", told["patient"]["id"], "--json", **demo).communicate(timeout=START_SECONDS)
    stored = sorted(log["anomaly_score"] for log in objects(logs))
    assert stored == sorted(call["score"] for call in told["calls"] if call["score"] is not None)


def test_the_demo_takes_real_recordings_a_folder_a_person(data_folder: Path, speech_dir: Path) -> None:
    output, complaint = embedded(
        data_folder, "demo", "--speech", str(speech_dir / "librispeech"), "--json"
    ).communicate(timeout=START_SECONDS)
    told = json.loads(output)
    assert [call["call"].split(maxsplit=1)[1] for call in told["calls"]][:4] == ["enrolment"] * 3 + ["same person"], (
        complaint
    )
    assert told["calls"][-1]["judged"].endswith(("warning", "emergency"))


def test_every_setting_stands_in_the_example_with_its_default() -> None:
    written = (ROOT / ".env.example").read_text()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names = [alias] if isinstance(alias, str) else list(alias.choices) if alias else [f"RETROCARE_{name.upper()}"]  # type: ignore[union-attr]
        assert f"{names[0]}=" in written, names
