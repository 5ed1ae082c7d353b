"""The operator's commands, each on a real database: what they do, what they ask before, and how they end."""

from __future__ import annotations

import hmac
import json
from pathlib import Path

import pytest

from fixtures.commands import Run, in_process, objects, recording
from fixtures.records import Records
from fixtures.running import recording_host

COMMANDS = [
    "demo",
    "start",
    "worker",
    "embed",
    "patient",
    "enroll",
    "check",
    "checks",
    "backfill",
    "issues",
    "run-jobs",
    "audit",
    "tombstones",
    "alert",
    "deliveries",
    "caregiver",
    "policy",
    "warnings",
    "calibrate",
    "evaluate",
    "key",
    "logs",
    "migrate",
    "url",
    "calibrate",
    "evaluate",
    "doctor",
]
PATIENT_COMMANDS = ["add", "set", "list", "flag", "unflag", "consent", "baseline", "withdraw-sample", "erase", "export"]
WITHOUT_JSON = ("start", "worker", "patient", "key", "alert", "deliveries", "caregiver", "policy")


@pytest.fixture(scope="module")
def retrocare(records: Records) -> Run:
    """Run a command on a database of its own."""
    return in_process(DATABASE_URL=records.database.service_url)


@pytest.mark.parametrize("command", [[name] for name in COMMANDS] + [["patient", name] for name in PATIENT_COMMANDS])
def test_every_command_explains_itself(retrocare: Run, command: list[str]) -> None:
    done = retrocare(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    if command not in (
        [name] for name in ("start", "worker", "patient", "key", "alert", "deliveries", "caregiver", "policy")
    ):
        assert "--json" in done.stdout


def test_withdrawing_consent_says_what_goes_asks_and_shows_what_went(retrocare: Run, records: Records) -> None:
    retrocare("patient", "add", "Isa", "--consent", "--evidence", "Form of 1 March")
    retrocare("enroll", "Isa", recording("01-enrol-monday"))
    evidence = "select string_agg(evidence, ', ' order by given_at) from public.consents c join public.patients"
    evidence += " p on p.id = c.patient_id where p.name = 'Isa'"
    retrocare("patient", "consent", "Isa", "--evidence", "Form of 2 May")
    assert records.one(evidence) == "Form of 1 March, Form of 2 May"
    refused = retrocare("patient", "consent", "Isa", "--withdraw")
    assert (refused.returncode, "1 baselines" in refused.stderr, "1 embeddings" in refused.stderr) == (1, True, True)
    assert "Nothing was changed" in refused.stderr
    baselines = (
        "select count(*) from voice.baselines b join public.patients p on p.id = b.patient_id where name = 'Isa'"
    )
    assert records.one(baselines) == 1
    went = objects(retrocare("patient", "consent", "Isa", "--withdraw", "--yes", "--json").stdout)
    assert {row["erased"]: row["rows"] for row in went} == {
        "embeddings": 1,
        "baselines": 1,
        "charts": 0,
        "chart_corrections": 0,
        "usual_features": 5,
        "checks": 1,
        "recordings": 0,
    }
    assert records.one(baselines) == 0
    assert records.one("select voice_consent_at from public.patients where name = 'Isa'") is None


def test_what_was_asked_for_and_not_done_is_exit_status_1(retrocare: Run) -> None:
    retrocare("patient", "add", "Teo", "--consent")
    for name, state in (("12-silence", "not_assessable"), ("01-enrol-monday", "enrolled")):
        done = retrocare("check", "Teo", recording(name), "--json")
        assert [(row["state"], done.returncode) for row in objects(done.stdout)] == [(state, int(state != "enrolled"))]
    again = retrocare("check", "Teo", recording("01-enrol-monday"))
    assert (again.returncode, "was judged before" in again.stderr, "enrolled" in again.stdout) == (0, True, True)
    missed = retrocare("checks", "--requeue", "99999", "--requeue", "99998")
    assert (missed.returncode, "99998, 99999 are no dead checks" in missed.stderr) == (1, True)
    assert "`retrocare checks --state dead` lists them" in missed.stderr


def test_recordings_of_somebody_else_replace_no_baseline(retrocare: Run, records: Records) -> None:
    retrocare("patient", "add", "Bia", "--consent")
    own = [
        recording(f"{number}-enrol-{day}") for number, day in (("01", "monday"), ("02", "tuesday"), ("03", "wednesday"))
    ]
    assert retrocare("enroll", "Bia", *own).returncode == 0

    def versions() -> list[tuple[int, bool]]:
        rows = objects(retrocare("patient", "baseline", "Bia", "--json").stdout)
        return [(row["version"], row["is_current"]) for row in rows]

    before = versions()
    other = recording("10-another-voice")
    refused = retrocare("enroll", "Bia", other)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "10-another-voice.flac does not sound like Bia: score 0." in refused.stderr
    assert "say --replace" in refused.stderr
    asked = retrocare(
        "enroll", "Bia", *[recording(f"0{day}") for day in ("4-usual-thursday", "5-usual-friday", "6-usual-saturday")]
    )
    assert (asked.returncode, "would be replaced" in asked.stderr, "not_confirmed" in asked.stderr) == (1, True, True)
    assert versions() == before
    calls = "select count(*) from public.call_logs c join public.patients p on p.id = c.patient_id where name = 'Bia'"
    assert records.one(calls) == 3


def test_an_earlier_baseline_is_restored_and_a_wrong_sample_withdrawn(retrocare: Run) -> None:
    retrocare("patient", "add", "Rita", "--consent")
    retrocare("enroll", "Rita", recording("01-enrol-monday"), recording("10-another-voice"))
    [present, first] = objects(retrocare("patient", "baseline", "Rita", "--json").stdout)
    wrong = next(iter(set(present["call_log_ids"]) - set(first["call_log_ids"])))
    refused = retrocare("patient", "withdraw-sample", "Rita", wrong)
    assert (refused.returncode, "of 2 samples" in refused.stderr, "not_confirmed" in refused.stderr) == (1, True, True)
    left = objects(retrocare("patient", "withdraw-sample", "Rita", wrong, "--yes", "--json").stdout)
    assert left[0]["call_log_ids"] == first["call_log_ids"]
    asked = retrocare("patient", "baseline", "Rita", "--restore", str(present["version"]))
    assert (asked.returncode, "not_confirmed" in asked.stderr) == (1, True)
    back = retrocare("patient", "baseline", "Rita", "--restore", str(present["version"]), "--yes", "--json")
    assert (objects(back.stdout)[0]["is_current"], objects(back.stdout)[0]["kept_samples"]) == (True, 2)
    assert "no version 99" in retrocare("patient", "baseline", "Rita", "--restore", "99", "--yes").stderr


def test_the_operator_answers_an_alert_by_the_patients_name(retrocare: Run, records: Records) -> None:
    retrocare("patient", "add", "Ada", "--consent")
    patient_id = records.one("select id from public.patients where name = 'Ada'")
    raised = "select (care.raise_alert(%s, 'nothing_heard', 'warning', now())).id"
    alert_id = str(records.one(raised, patient_id))
    [listed] = objects(retrocare("alert", "list", "--patient", "Ada", "--json").stdout)
    assert (listed["id"], listed["state"], listed["last_actor"]) == (alert_id, "open", "rule")
    [seen] = objects(retrocare("alert", "acknowledge", "Ada", "--json").stdout)
    assert (seen["id"], seen["state"]) == (alert_id, "acknowledged")
    closed = retrocare("alert", "resolve", alert_id, "--outcome", "ill", "--note", "A cold.", "--json")
    assert (objects(closed.stdout)[0]["outcome"], objects(closed.stdout)[0]["notes"]) == ("ill", "A cold.")
    assert records.one("select flag from public.health_flags where patient_id = %s", patient_id) == "ill (alert)"
    assert "The alert is resolved" in retrocare("alert", "acknowledge", alert_id).stderr
    assert "has no unresolved alert" in retrocare("alert", "acknowledge", "Ada").stderr


def test_caregivers_are_added_changed_listed_and_removed(retrocare: Run) -> None:
    retrocare("patient", "add", "Sam")
    given = ["--phone", "+4930555", "--known-as", "Dad", "--role", "primary"]
    [added] = objects(retrocare("caregiver", "add", "Sam", "Eva of Sam", *given, "--json").stdout)
    assert (added["role"], added["phone"], added["patient_known_as"]) == ("primary", "+4930555", "Dad")
    hook = ["--webhook", "https://example.org/hook", "--phone", ""]
    [changed] = objects(retrocare("caregiver", "change", "Eva of Sam", *hook, "--json").stdout)
    assert changed == added | {"phone": None, "webhook_url": "https://example.org/hook"}
    refused = retrocare("caregiver", "change", "Eva of Sam", "--webhook", "http://example.org/hook")
    assert (refused.returncode, "Use an https URL" in refused.stderr) == (1, True)
    assert "Messages exist in: en" in retrocare("caregiver", "change", "Eva of Sam", "--language", "pt").stderr
    asked = retrocare("caregiver", "remove", "Eva of Sam")
    assert (asked.returncode, "no longer be told about Sam" in asked.stderr) == (1, True)
    assert len(objects(retrocare("caregiver", "list", "Sam", "--json").stdout)) == 1
    retrocare("caregiver", "remove", "Eva of Sam", "--yes")
    assert objects(retrocare("caregiver", "list", "Sam", "--json").stdout) == []


def test_each_webhook_has_a_secret_of_its_own(retrocare: Run) -> None:
    url = "https://example.org/hook"
    expected = hmac.new(b"word", url.encode(), "sha256").hexdigest()
    assert retrocare("caregiver", "webhook-secret", url, ALERT_WEBHOOK_SECRET="word").stdout == f"{expected}\n"
    assert "ALERT_WEBHOOK_SECRET is not set" in retrocare("caregiver", "webhook-secret", url).stderr


def test_a_patient_is_changed_and_what_is_wrong_is_named(retrocare: Run) -> None:
    retrocare("patient", "add", "Mia")
    [changed] = objects(
        retrocare("patient", "set", "Mia", "--phone", "+4930100200", "--silent-after-days", "3", "--json").stdout
    )
    assert (changed["phone"], changed["silent_after_days"]) == ("+4930100200", 3)
    wrong = {"--timezone": "Mars/Olympus", "--phone": "030 1", "--silent-after-days": "999"}
    for option, value in wrong.items():
        done = retrocare("patient", "set", "Mia", option, value)
        assert (done.returncode, value in done.stderr) == (1, True), done.stderr


def test_thresholds_are_shown_and_changed_together(retrocare: Run) -> None:
    retrocare("embed", recording("12-silence"))  # the encoder registers
    shown = json.loads(retrocare("policy", "show", "--json").stdout)
    assert (shown["encoder"], shown["medium_above"]) == ("ge2e-v2", 0.25)
    changed = retrocare("policy", "set", "maximum_call_seconds=3000", "--json")
    assert json.loads(changed.stdout)["maximum_call_seconds"] == 3000
    for words, told in {
        ("medium_above=0.9",): "The thresholds rise",
        ("mediun_above=0.3",): "There is no threshold or limit named mediun_above",
        ("baseline_minimum_samples=2.5",): "whole number",
    }.items():
        done = retrocare("policy", "set", *words)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    assert retrocare("policy", "set", "medium_above").returncode == 2
    retrocare("policy", "set", "maximum_call_seconds=3600")


def test_a_message_that_died_is_queued_again_by_its_number(retrocare: Run, records: Records) -> None:
    retrocare("patient", "add", "Leia")
    retrocare("caregiver", "add", "Leia", "Luke", "--phone", "+4930777001", "--role", "primary")
    patient_id = records.one("select id from public.patients where name = 'Leia'")
    records.do("select care.raise_alert(%s, 'nothing_heard', 'emergency', now())", patient_id)
    records.do("update care.deliveries set state = 'dead', finished_at = now(), error_code = 'twilio_21211'")
    [dead] = objects(retrocare("deliveries", "list", "--state", "dead", "--patient", "Leia", "--json").stdout)
    assert (dead["caregiver"], dead["channel"]) == ("Luke", "sms")
    missed = retrocare("deliveries", "requeue", "99999")
    assert (missed.returncode, "99999 is no dead message" in missed.stderr) == (1, True)
    assert objects(retrocare("deliveries", "requeue", str(dead["id"]), "--json").stdout) == [{"queued": dead["id"]}]
    assert objects(retrocare("deliveries", "list", "--patient", "Leia", "--json").stdout)[0]["state"] == "queued"


def test_a_flag_that_means_nothing_is_pointed_out(retrocare: Run, records: Records) -> None:
    retrocare("patient", "add", "Otto")
    records.do("update public.patients set flags = '{feaver}' where name = 'Otto'")
    assert "Otto is flagged 'feaver', in which no word" in retrocare("patient", "list").stderr
    records.do("update public.patients set flags = '{pneumonia}' where name = 'Otto'")
    assert "Otto is flagged" not in retrocare("patient", "list").stderr


def test_a_recording_that_is_not_judged_is_explained_with_its_numbers(retrocare: Run) -> None:
    retrocare("patient", "add", "Gus", "--consent")
    done = retrocare("check", "Gus", recording("12-silence"))
    assert "12-silence.flac: No speech was heard. At least 3 s are needed." in done.stderr
    assert "No speech was heard" in retrocare("embed", recording("12-silence")).stderr
    assert not any(sign in done.stderr for sign in "{}[]")


def test_a_setting_that_is_misspelt_is_refused_with_the_nearest_name(
    retrocare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = retrocare("patient", "list", RETROCARE_ENCODR="ge2e")
    assert (done.returncode, "Did you mean RETROCARE_ENCODER?" in done.stderr) == (1, True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("RETROCARE_LEASE_SECOND=5\n")
    assert "Did you mean RETROCARE_LEASE_SECONDS?" in retrocare("patient", "list").stderr


def test_what_is_no_address_of_a_database_is_said_without_repeating_it(retrocare: Run) -> None:
    for wrong in ("foo", "http://me:hidden@host/db"):
        done = retrocare("patient", "list", DATABASE_URL=wrong)
        assert (done.returncode, "DATABASE_URL: this is no address of a PostgreSQL" in done.stderr) == (1, True)
        assert wrong not in done.stderr


def test_the_version_is_printed(retrocare: Run) -> None:
    assert retrocare("--version").stdout.startswith("retrocare-voice 1.0.0")


def test_doctor_finds_the_bucket_the_functions_and_what_is_missing(retrocare: Run) -> None:
    with recording_host() as host:
        host.offered["storage/v1/bucket/voice-recordings"] = b"{}"
        host.offered["functions/v1/notify-caregiver"] = b"{}"
        url = f"http://127.0.0.1:{host.port}"
        given = {"SUPABASE_URL": url, "SUPABASE_SECRET_KEY": "word", "RETROCARE_FUNCTIONS_URL": f"{url}/functions/v1"}
        rows = {row["part"]: row for row in objects(retrocare("doctor", "--json", **given).stdout)}
        assert {rows[part]["state"] for part in ("Storage", "edge functions", "active encoder")} == {"ok"}
        wrong = given | {"SUPABASE_STORAGE_BUCKET": "elsewhere"}
        told = {row["part"]: row for row in objects(retrocare("doctor", "--json", **wrong).stdout)}["Storage"]
    assert (told["state"], "404 for the bucket elsewhere" in told["detail"]) == ("missing", True)
    assert (rows["messages"]["state"], "nobody can be told" in rows["messages"]["detail"]) == ("absent", True)


def test_a_flag_that_would_empty_the_baseline_asks_and_one_that_is_not_open_is_no_success(
    retrocare: Run, records: Records
) -> None:
    retrocare("patient", "add", "Flora", "--consent")
    retrocare("enroll", "Flora", recording("01-enrol-monday"), "--json")
    patient_id = records.one("select id from public.patients where name = 'Flora'")
    assert records.baseline(patient_id)
    refused = retrocare("patient", "flag", "Flora", "flu", "--since", "2006-11-20")
    assert (refused.returncode, "1 samples of the baseline" in refused.stderr) == (1, True)
    assert records.baseline(patient_id)
    assert retrocare("patient", "flag", "Flora", "flu").returncode == 0, "from now on nothing is lost"
    typo = retrocare("patient", "unflag", "Flora", "flue")
    assert (typo.returncode, "No health flag called 'flue' is open" in typo.stderr) == (1, True)
    assert retrocare("patient", "unflag", "Flora", "flu").returncode == 0
    assert retrocare("patient", "flag", "Flora", "flu", "--since", "2006-11-20", "--yes").returncode == 0
    assert records.baseline(patient_id) is None


def test_what_has_waited_longest_is_listed_and_a_job_that_cannot_do_something_is_no_success(
    retrocare: Run, records: Records
) -> None:
    records.do("update care.jobs set last_succeeded_at = now() - interval '31 days' where id = 'match_calls'")
    assert "jobs_late" in retrocare("issues").stdout
    assert retrocare("run-jobs").returncode == 0
    records.report("call-x", phone="+4930888888")
    records.do('update care.unmatched_calls set report = report || \'{"started_at": "no time"}\'')
    records.do("update public.patients set phone = '+4930888888' where name = 'Flora'")
    done = retrocare("run-jobs")
    assert (done.returncode, "Not done: match_calls vapi/call-x" in done.stderr) == (1, True)
    records.do("delete from care.unmatched_calls")
    assert retrocare("run-jobs").returncode == 0


def test_the_budget_is_chosen_for_all_and_for_one_patient_and_shown_in_words(retrocare: Run) -> None:
    retrocare("patient", "add", "Uma", "--consent")
    choices = objects(retrocare("warnings", "--json").stdout)
    assert [(row["warnings_per_year"], row["is_chosen"]) for row in choices] == [(1, True), (4, False), (12, False)]
    assert all(row["cost"] for row in choices)
    for_one = objects(retrocare("warnings", "12", "--patient", "Uma", "--json").stdout)
    assert [row["is_chosen"] for row in for_one] == [False, False, True]
    assert [row["is_chosen"] for row in objects(retrocare("warnings", "--json").stdout)] == [True, False, False]
    refused = retrocare("warnings", "3")
    assert (refused.returncode, "Choose one of 1, 4, 12." in refused.stderr) == (1, True)


def test_a_policy_is_tried_on_the_stored_calls(retrocare: Run) -> None:
    empty = retrocare("policy", "replay", "warnings_per_year=4", "--patient", "Uma")
    assert (empty.returncode, "No stored call can be judged again" in empty.stderr) == (1, True)
    retrocare("patient", "add", "Vera", "--consent")
    days = ("01-enrol-monday", "02-enrol-tuesday", "03-enrol-wednesday")
    retrocare("enroll", "Vera", *map(recording, days))
    retrocare("check", "Vera", recording("04-usual-thursday"), recording("10-another-voice"))
    told = json.loads(retrocare("policy", "replay", "--patient", "Vera", "--json").stdout)
    assert (told["calls"], told["largest_score_difference"] < 1e-9) == (2, True)
    table = retrocare("policy", "replay", "warnings_per_year=12", "--patient", "Vera").stdout
    assert "messages, warning" in table
    for wrong in ("mood=1", "warnings_per_year=2"):
        assert retrocare("policy", "replay", wrong).returncode == 1
    assert retrocare("policy", "replay", "rule=so so").returncode == 2


def test_the_rule_is_changed_like_any_other_value(retrocare: Run) -> None:
    assert json.loads(retrocare("policy", "set", "rule=fixed", "--json").stdout)["rule"] == "fixed"
    assert json.loads(retrocare("policy", "set", "rule=calibrated", "--json").stdout)["rule"] == "calibrated"
    assert retrocare("policy", "set", "rule=guessed").returncode == 1
