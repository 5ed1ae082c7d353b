"""voice.complete_check: one transaction, all or nothing, fenced by the lease token, repeatable."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from fixtures.records import ENCODER, NOON, USUAL, Records, at_cosine, text

WRITTEN = [
    "voice.embeddings",
    "voice.baselines",
    "voice.baseline_samples",
    "public.judgements",
    "public.voice_anomaly_logs",
    "public.daily_checkins",
    "public.caregiver_alerts",
]


def snapshot(records: Records) -> dict[str, object]:
    counts = {table: records.one(f"select count(*) from {table}") for table in WRITTEN}
    calls = records.rows("select id, anomaly_score, check_state from public.call_logs order by id")
    checks = records.rows("select id, state, detail from care.checks order by id")
    return {**counts, "calls": calls, "checks": checks}


def test_the_first_healthy_call_enrols_and_has_no_score(records: Records) -> None:
    patient_id = records.patient()
    result = records.judge(patient_id)
    assert (result["state"], result["anomaly_score"], result["added_to_baseline"]) == ("enrolled", None, True)
    baseline = records.baseline(patient_id)
    assert baseline is not None
    assert (baseline["version"], baseline["sample_count"]) == (1, 1)
    assert records.one("select count(*) from public.voice_anomaly_logs") == 0


def test_a_later_call_is_scored_and_its_row_explains_and_recomputes_it(records: Records) -> None:
    patient_id = records.patient("Europe/Berlin")
    records.judge(patient_id)
    result = records.judge(patient_id, at_cosine(0.5), NOON + timedelta(days=1, hours=-5), snr_db=12.0)
    log = records.row("select * from public.voice_anomaly_logs where id = %s", result["log_id"])
    assert (result["state"], result["severity"], result["alert_type"]) == ("scored", log["severity"], log["alert_type"])
    assert log["local_hour"] == 8.0
    assert log["adjusted_from"] == pytest.approx(0.5, abs=1e-6)
    assert log["normalized_score"] == log["anomaly_score"] == result["anomaly_score"]
    assert (log["snr"], log["baseline_version"], log["is_provisional"]) == (12.0, 1, True)
    recomputed = records.one(
        """select (voice.judge(b.embedding, e.embedding, l.snr, l.local_hour,
                   jsonb_populate_record(null::voice.policies, p.policy),
                   jsonb_populate_record(null::care.thresholds, p.policy))).score
           from public.voice_anomaly_logs as l
           join public.judgements as j on j.id = l.id
           join public.scoring_policies as p on p.id = j.policy_id
           join voice.embeddings as e on e.id = l.embedding_id
           join voice.baselines as b on b.id = l.baseline_id"""
    )
    assert recomputed == log["anomaly_score"]


def test_the_policy_of_a_score_stays_as_it_was_and_is_kept_once(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    for day, medium_above in enumerate((0.25, 0.25, 0.1, 0.25), 1):
        records.set_policy(medium_above=medium_above)
        records.judge(patient_id, at_cosine(0.95), NOON + timedelta(days=day))
    judged = records.rows(
        """select (p.policy ->> 'medium_above')::float8 as medium_above, p.id
           from public.judgements as j join public.scoring_policies as p on p.id = j.policy_id
           order by j.occurred_at"""
    )
    assert [row["medium_above"] for row in judged] == [0.25, 0.25, 0.1, 0.25]
    assert records.one("select count(*) from public.scoring_policies") == 2 == len({row["id"] for row in judged})
    assert records.one("select voice.policy_values(%s) in (select policy from public.scoring_policies)", ENCODER)


def test_the_call_shows_its_state_and_score(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    result = records.judge(patient_id, at_cosine(0.5))
    call = records.row("select * from public.call_logs where id = %s", result["call_log_id"])
    assert (call["check_state"], call["check_reason"], call["anomaly_score"]) == (
        "scored",
        None,
        result["anomaly_score"],
    )


@pytest.mark.parametrize("table", [*WRITTEN, "public.call_logs", "care.checks"])
def test_completion_is_all_or_nothing(records: Records, table: str) -> None:
    """Fail at each table that it writes: nothing remains, and the same lease completes afterwards."""
    patient_id = records.patient()
    records.judge(patient_id)
    records.set_policy(checkin_above=0.1, medium_above=0.05)
    # A baseline grows by a low call, an alert needs a higher one: each table gets the voice that writes it.
    voice = USUAL if "baseline" in table else at_cosine(0.5)
    claim = records.open(records.call_log(patient_id))
    before = snapshot(records)
    records.do(
        """create function voice.break_down() returns trigger language plpgsql as
           $$ begin raise exception 'broken on purpose'; end $$"""
    )
    records.do(
        f"create trigger zz_broken before insert or update on {table} for each row execute function voice.break_down()"
    )
    with pytest.raises(psycopg.errors.RaiseException, match="broken on purpose"):
        records.complete(claim, voice)
    assert snapshot(records) == before
    records.do(f"drop trigger zz_broken on {table}")
    assert records.complete(claim, voice)["state"] == "scored"


def test_completing_again_with_the_same_token_returns_the_stored_result(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    claim = records.open(records.call_log(patient_id))
    first = records.complete(claim, at_cosine(0.5))
    before = snapshot(records)
    assert records.complete(claim, at_cosine(0.1)) == first
    assert snapshot(records) == before


def test_another_token_is_refused(records: Records) -> None:
    claim = records.open(records.call_log(records.patient()))
    with pytest.raises(psycopg.Error) as raised:
        records.complete({**claim, "lease_token": uuid4()})
    assert raised.value.sqlstate == "RV001"
    assert records.one("select count(*) from voice.embeddings") == 0


def test_who_lost_the_lease_changes_nothing(records: Records) -> None:
    call_log_id = records.call_log(records.patient())
    lost = records.open(call_log_id, "slow", lease_seconds=-1)
    held = records.open(call_log_id, "quick")
    lease = (lost["check_id"], lost["lease_token"])
    attempts: dict[str, tuple[object, ...]] = {
        "complete_check": (*lease, text(USUAL), b"x" * 32, 10.0, None, "{}"),
        "abstain_check": (*lease, "no_speech", "{}"),
        "fail_check": (*lease, "oops", "late", False),
    }
    for function, values in attempts.items():
        with pytest.raises(psycopg.Error) as raised:
            records.call(function, *values)
        assert raised.value.sqlstate == "RV001"
    assert records.complete(held)["state"] == "enrolled"


@pytest.mark.parametrize(
    ("vector", "constraint"),
    [
        ((0.0, 0.0, 0.0), "an_embedding_has_unit_length"),
        ((2.0, 0.0, 0.0), "an_embedding_has_unit_length"),
        ((1.0, 0.0), "an_embedding_has_its_encoders_dimension"),
        ((1.0, 0.0, 0.0, 0.0), "an_embedding_has_its_encoders_dimension"),
    ],
)
def test_a_vector_that_is_no_voiceprint_of_this_encoder_is_refused_by_name(
    records: Records, vector: tuple[float, ...], constraint: str
) -> None:
    claim = records.open(records.call_log(records.patient()))
    with pytest.raises(psycopg.errors.IntegrityError) as raised:
        records.complete(claim, vector)
    assert raised.value.diag.constraint_name == constraint
    assert records.one("select count(*) from voice.embeddings") == 0


def test_a_vector_with_nan_is_refused(records: Records) -> None:
    claim = records.open(records.call_log(records.patient()))
    with pytest.raises(psycopg.errors.DataException):
        records.complete(claim, (float("nan"), 0, 0))


@pytest.mark.parametrize("snr_db", [float("nan"), float("inf"), float("-inf")])
def test_an_snr_that_is_no_number_is_refused(records: Records, snr_db: float) -> None:
    claim = records.open(records.call_log(records.patient()))
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.complete(claim, snr_db=snr_db)
    assert raised.value.diag.constraint_name == "a_known_snr_is_a_number"


def test_a_baseline_takes_no_sample_of_another_encoder(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    records.register("other-v1")
    call_log_id = records.call_log(patient_id)
    claim = records.call("open_check", call_log_id, "other-v1", "test", 60)
    records.complete(claim)
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as raised:
        records.do(
            """insert into voice.baseline_samples (baseline_id, embedding_id, patient_id, encoder)
               select b.id, e.id, b.patient_id, b.encoder from voice.baselines as b, voice.embeddings as e
               where b.encoder = 'test-v1' and e.encoder = 'other-v1'"""
        )
    assert raised.value.diag.constraint_name == "a_sample_is_an_embedding_of_the_patient_and_encoder"


def test_a_call_scored_by_another_encoder_is_compared_with_that_encoders_baseline_only(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    records.register("other-v1")
    claim = records.call("open_check", records.call_log(patient_id), "other-v1", "test", 60)
    assert records.complete(claim, at_cosine(0.1))["state"] == "enrolled"


def test_without_consent_nothing_is_stored(records: Records) -> None:
    patient_id = records.patient(consent=False)
    claim = records.open(records.call_log(patient_id))
    assert (claim["state"], claim["lease_token"]) == ("skipped", None)
    assert records.call("stored_result", claim["check_id"])["reason"] == "no_consent"


def test_consent_withdrawn_while_the_audio_was_processed_is_respected(records: Records) -> None:
    patient_id = records.patient()
    claim = records.open(records.call_log(patient_id))
    records.call("set_consent", patient_id, False)
    result = records.complete(claim)
    assert (result["state"], result["reason"]) == ("skipped", "no_consent")
    assert records.one("select count(*) from voice.embeddings") == 0


def test_consent_given_later_opens_the_call_anew(records: Records) -> None:
    patient_id = records.patient(consent=False)
    call_log_id = records.call_log(patient_id)
    records.open(call_log_id)
    records.call("set_consent", patient_id, True)
    assert records.complete(records.open(call_log_id))["state"] == "enrolled"


def test_the_same_audio_on_another_call_is_a_duplicate_and_returns_what_was_found_then(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    first = records.judge(patient_id, at_cosine(0.7), recording="monday")
    again = records.judge(patient_id, USUAL, recording="monday")
    assert again == first | {"call_log_id": again["call_log_id"], "duplicate_of": first["call_log_id"]}
    assert (first["duplicate_of"], first["anomaly_score"]) == (None, pytest.approx(0.3))
    call = records.row(
        "select check_state, check_reason, anomaly_score from public.call_logs where id = %s", again["call_log_id"]
    )
    assert call == {"check_state": "skipped", "check_reason": "duplicate_recording", "anomaly_score": None}
    assert records.one("select count(*) from public.voice_anomaly_logs") == 1
    assert records.judge(records.patient(), recording="monday")["state"] == "enrolled"


def test_a_duplicate_of_an_enrolment_says_that_it_is_enrolled(records: Records) -> None:
    patient_id = records.patient()
    first = records.judge(patient_id, recording="monday")
    again = records.judge(patient_id, recording="monday")
    assert (again["state"], again["duplicate_of"], again["anomaly_score"]) == ("enrolled", first["call_log_id"], None)


def test_a_recording_that_cannot_be_judged_leaves_its_reason_and_no_score(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    claim = records.open(records.call_log(patient_id))
    result = records.call("abstain_check", claim["check_id"], claim["lease_token"], "too_noisy", '{"snr_db": 3.5}')
    assert (result["state"], result["reason"], result["anomaly_score"], result["snr"]) == (
        "not_assessable",
        "too_noisy",
        None,
        3.5,
    )
    assert records.one("select count(*) from public.voice_anomaly_logs") == 0


def test_a_failure_never_leaves_a_score(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    claim = records.open(records.call_log(patient_id))
    result = records.call("fail_check", claim["check_id"], claim["lease_token"], "internal_error", "broken", False)
    assert result["state"] == "dead"
    assert [result[name] for name in ("anomaly_score", "raw_similarity", "normalized_score", "severity")] == [None] * 4
    call = records.row("select * from public.call_logs where id = %s", result["call_log_id"])
    assert (call["anomaly_score"], call["check_state"]) == (None, "dead")
    assert records.one("select count(*) from public.voice_anomaly_logs") == 0


def test_two_first_calls_completing_at_once_make_two_versions_of_one_baseline(records: Records) -> None:
    patient_id = records.patient()
    claims = [records.open(records.call_log(patient_id)) for _ in range(2)]
    start = threading.Barrier(2)
    results = []

    def complete(claim: dict[str, object]) -> None:
        with psycopg.connect(records.database.service_url, autocommit=True) as connection:
            start.wait(10)
            results.append(records.complete(claim, connection=connection))

    threads = [threading.Thread(target=complete, args=[claim]) for claim in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(result["state"] for result in results) == ["enrolled", "scored"]
    versions = records.rows("select version, sample_count from voice.baselines order by version")
    assert versions == [{"version": 1, "sample_count": 1}, {"version": 2, "sample_count": 2}]


def test_a_patient_that_is_erased_takes_everything_along(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    records.judge(patient_id, at_cosine(0.1))
    records.do("delete from public.patients where id = %s", patient_id)
    left = [records.one(f"select count(*) from {table}") for table in [*WRITTEN, "care.checks", "public.call_logs"]]
    assert left == [0] * len(left)


def test_the_smallest_vector_text_is_read_back_unchanged(records: Records) -> None:
    records.judge(records.patient(), (0.6, 0.8, 0.0))
    assert records.one("select embedding from voice.embeddings") == text((0.6, 0.8, 0)).replace(".0", "")


def test_consent_withdrawn_before_a_recording_turned_out_not_assessable_is_respected(records: Records) -> None:
    patient_id = records.patient()
    claim = records.open(records.call_log(patient_id))
    records.call("set_consent", patient_id, False)
    result = records.call("abstain_check", claim["check_id"], claim["lease_token"], "too_noisy", '{"snr_db": 3.5}')
    assert (result["state"], result["reason"], result["snr"]) == ("skipped", "no_consent", None)
    assert records.one("select quality from care.checks") == {}
