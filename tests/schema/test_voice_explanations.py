"""voice.unusual_features(), voice.learn_features() and care.reasons_in_words(): what was unusual, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.records import Records
from retrocare.audio.decode import decode
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.cli.demo import RECORDINGS

# An ordinary call of somebody whose every feature is as people's are in general.
USUAL = {"pitch": 7.6, "pitch_spread": 7.4, "syllable_rate": 3.7, "pause_share": 0.13, "tilt": -5.7}
WITHIN = {"pitch": 1.2, "pitch_spread": 1.3, "syllable_rate": 0.31, "pause_share": 0.07, "tilt": 1.4}
REASONS = {
    "pitch": ("lower_voice", "higher_voice"),
    "pitch_spread": ("flatter", "livelier"),
    "syllable_rate": ("slower", "faster"),
    "pause_share": ("shorter_pauses", "longer_pauses"),
    "tilt": ("duller", "brighter"),
}


def quality(**features: object) -> str:
    return json.dumps({"windows": 7, "features": USUAL | features})


def learn(records: Records, patient_id: UUID, calls: Iterable[str]) -> None:
    for call in calls:
        records.do("select voice.learn_features(%s, %s)", patient_id, call)


def unusual(records: Records, patient_id: UUID, call: str) -> dict[str, float]:
    rows = records.rows("select * from voice.unusual_features(%s, %s)", patient_id, call)
    return {row["reason"]: row["deviation"] for row in rows}


def learned(records: Records, patient_id: UUID, feature: str) -> dict[str, Any]:
    return records.row(
        "select call_count, mean, m2 from voice.usual_features where patient_id = %s and feature = %s",
        patient_id, feature,
    )  # fmt: skip


@pytest.fixture
def known(records: Records) -> UUID:
    """A patient of whom ten ordinary calls were learned."""
    patient_id = records.patient()
    learn(records, patient_id, [quality()] * 10)
    return patient_id


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("feature", REASONS)
def test_an_unusual_feature_is_a_reason_that_says_in_which_direction(
    records: Records, known: UUID, feature: str, direction: int
) -> None:
    call = quality(**{feature: USUAL[feature] + (4 * direction - 2) * 2 * WITHIN[feature]})
    found = unusual(records, known, call)
    assert list(found) == [REASONS[feature][direction]]
    assert math.copysign(1, found[REASONS[feature][direction]]) == 2 * direction - 1


def test_nothing_is_unusual_about_an_ordinary_call(records: Records, known: UUID) -> None:
    assert unusual(records, known, quality()) == {}


def test_nothing_is_said_before_five_healthy_calls_were_learned(records: Records) -> None:
    patient_id = records.patient()
    slow = quality(syllable_rate=2.0)
    for calls in range(5):
        assert unusual(records, patient_id, slow) == {}, calls
        learn(records, patient_id, [quality()])
    assert list(unusual(records, patient_id, slow)) == ["slower"]


def test_the_most_unusual_is_said_first_and_no_more_than_three_things_are(records: Records, known: UUID) -> None:
    times = {"pitch": 4, "pitch_spread": -5, "syllable_rate": -7, "pause_share": 6, "tilt": 3}
    call = quality(**{feature: USUAL[feature] + count * WITHIN[feature] for feature, count in times.items()})
    found = unusual(records, known, call)
    assert list(found) == ["slower", "longer_pauses", "flatter"]
    sizes = [abs(deviation) for deviation in found.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_unusual_depends_on_how_much_the_patients_own_calls_differ(records: Records) -> None:
    steady, lively = records.patient(), records.patient()
    learn(records, steady, [quality()] * 30)
    learn(records, lively, [quality(pitch=7.6 + change) for change in (-2.5, 2.5)] * 15)
    call = quality(pitch=10)
    assert list(unusual(records, steady, call)) == ["higher_voice"]
    assert unusual(records, lively, call) == {}


def test_what_is_unusual_depends_on_the_patients_own_mean(records: Records, known: UUID) -> None:
    deep = records.patient()
    learn(records, deep, [quality(pitch=-3)] * 10)
    assert unusual(records, deep, quality(pitch=-3)) == {}
    assert list(unusual(records, known, quality(pitch=-3))) == ["lower_voice"]
    assert list(unusual(records, deep, quality())) == ["higher_voice"]


@pytest.mark.parametrize(
    "call",
    [
        {}, {"features": None}, {"features": {}}, {"features": {"pitch": None}}, {"features": {"pitch": "NaN"}},
        {"features": {"pitch": 1e300}}, {"features": {"whistling": 3}}, {"features": [1]},
    ],
)  # fmt: skip
def test_a_feature_that_was_not_measured_is_neither_said_nor_learned(
    records: Records, known: UUID, call: dict[str, object]
) -> None:
    before = records.rows("select * from voice.usual_features order by feature")
    assert unusual(records, known, json.dumps(call)) == {}
    learn(records, known, [json.dumps(call)])
    assert records.rows("select * from voice.usual_features order by feature") == before


def test_a_feature_that_the_line_withholds_now_and_then_is_learned_from_the_other_calls(records: Records) -> None:
    patient_id = records.patient()
    learn(records, patient_id, [quality(pause_share=None if n % 2 else 0.2) for n in range(10)])
    assert learned(records, patient_id, "pause_share")["call_count"] == 5
    assert learned(records, patient_id, "pitch")["call_count"] == 10


def test_an_outlier_is_learned_as_if_it_were_three_deviations_away(records: Records) -> None:
    means = []
    for rate in (1e3, 9e5):
        patient_id = records.patient()
        learn(records, patient_id, [quality()] * 10 + [quality(syllable_rate=rate)])
        means.append(learned(records, patient_id, "syllable_rate")["mean"])
    assert means[0] == pytest.approx(means[1], abs=1e-12)
    assert 3.7 < means[0] < 3.7 + 3 * 0.31 * 1.2 / 11


def test_what_is_usual_is_learned_from_sixty_calls_and_then_stays(records: Records) -> None:
    patient_id = records.patient()
    learn(records, patient_id, [quality()] * 60)
    before = learned(records, patient_id, "pitch")
    learn(records, patient_id, [quality(pitch=9)] * 3)
    assert learned(records, patient_id, "pitch") == before
    assert before["call_count"] == 60


def test_the_limits_are_rows_and_their_changes_are_noted(records: Records, known: UUID) -> None:
    call = quality(syllable_rate=2.0)
    records.do("update voice.features set said_beyond = 20 where id = 'syllable_rate'")
    assert unusual(records, known, call) == {}
    records.do("update voice.features set said_beyond = 2, minimum_calls = 11 where id = 'syllable_rate'")
    assert unusual(records, known, call) == {}
    learn(records, known, [quality()])
    assert list(unusual(records, known, call)) == ["slower"]
    assert records.one("select count(*) from care.audit_log where subject = 'voice.features syllable_rate'") == 2


def oracle(values: Sequence[float], mean0: float, between: float, within: float, nu0: float) -> tuple[float, ...]:
    """Learn values one by one; return count, mean, m2, and what is expected of the next: mean, scale and degrees."""
    kappa = (within / between) ** 2
    kept: list[float] = []

    def expected() -> tuple[float, float, float]:
        c = len(kept)
        mean = sum(kept) / c if c else 0.0
        m2 = sum((value - mean) ** 2 for value in kept)
        s2 = (nu0 * within**2 + m2 + c * kappa / (c + kappa) * (mean - mean0) ** 2) / (nu0 + c)
        return (c * mean + kappa * mean0) / (c + kappa), math.sqrt(s2 * (1 + 1 / (c + kappa))), nu0 + c

    for value in values:
        middle, scale, _ = expected()
        kept.append(min(max(value, middle - 3 * scale), middle + 3 * scale))
    mean = sum(kept) / len(kept)
    return (len(kept), mean, sum((value - mean) ** 2 for value in kept), *expected())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rates=st.lists(st.floats(0.1, 9), min_size=5, max_size=12),
    rate=st.floats(0, 12),
)
def test_learning_and_deviation_agree_with_arithmetic_in_python(
    records: Records, rates: list[float], rate: float
) -> None:
    patient_id = records.patient()
    learn(records, patient_id, [quality(syllable_rate=value) for value in rates])
    count, mean, m2, expected, scale, degrees = oracle(rates, 3.7, 0.61, 0.31, 7)
    found = learned(records, patient_id, "syllable_rate")
    assert found["call_count"] == count
    assert (found["mean"], found["m2"]) == pytest.approx((mean, m2), rel=1e-9, abs=1e-9)
    records.do("update voice.features set said_beyond = 1e-9 where id = 'syllable_rate'")
    said = unusual(records, patient_id, quality(syllable_rate=rate))
    deviation = said.get("faster", said.get("slower", 0.0))
    t = (rate - expected) / scale
    wallace = (8 * degrees + 1) / (8 * degrees + 3) * math.sqrt(degrees * math.log1p(t * t / degrees))
    assert deviation == pytest.approx(math.copysign(wallace, t), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("t", "degrees", "normal"),
    [(1.812461, 10, 1.644854), (2.570582, 5, 1.959964), (2.228139, 10, 1.959964), (3.732834, 15, 3.090232)],
)
def test_a_deviation_is_as_rare_as_the_value_of_students_distribution(
    records: Records, t: float, degrees: float, normal: float
) -> None:
    """The pairs are the quantiles 0.95, 0.975, 0.975 and 0.999, as printed in tables."""
    for sign in (-1, 1):
        found = records.one("select voice.normal_deviate(%s, %s)", sign * t, degrees)
        assert found == pytest.approx(sign * normal, abs=0.01)


def test_an_erased_voice_takes_what_is_usual_with_it(records: Records, known: UUID) -> None:
    other_id = records.patient()
    learn(records, other_id, [quality()])
    [erased] = records.rpc("erase_patient_voice", patient_id=known, reason="asked for")
    assert erased["erase_patient_voice"]["usual_features"] == 5
    assert records.rows("select distinct patient_id from voice.usual_features") == [{"patient_id": other_id}]
    records.rpc("erase_patient", patient_id=other_id, reason="asked for")
    assert records.one("select count(*) from voice.usual_features") == 0


def test_an_export_contains_what_is_usual(records: Records, known: UUID) -> None:
    exported = records.one("select care.export_patient(%s)", known)
    rows = {row["feature"]: row for row in exported["voice.usual_features"]}
    assert set(rows) == set(USUAL)
    assert rows["pitch"]["mean"] == pytest.approx(7.6)


def in_words(records: Records, reasons: list[str] | None, language: str | None = "en") -> str | None:
    words: str | None = records.one("select care.reasons_in_words(%s, %s)", reasons, language)
    return words


def test_reasons_become_one_clause_in_their_order_with_the_name_once(records: Records) -> None:
    assert in_words(records, ["slower"]) == "slower than usual for {patient}"
    assert in_words(records, ["slower", "longer_pauses"]) == "slower than usual for {patient}, with longer pauses"
    expected = "with longer pauses than usual for {patient}, slower, in a lower voice"
    assert in_words(records, ["longer_pauses", "slower", "lower_voice"]) == expected


def test_where_there_is_no_reason_nothing_is_said(records: Records) -> None:
    assert [in_words(records, reasons) for reasons in (None, [], ["unheard_of"])] == [None, None, None]
    assert in_words(records, ["unheard_of", "slower", "longer_pauses"]) == in_words(
        records, ["slower", "longer_pauses"]
    )


def test_a_reason_without_a_translation_is_said_in_english(records: Records) -> None:
    records.do(
        """insert into care.reason_texts (language, reason, text, further_text) values
               ('de', 'slower', 'langsamer als sonst bei {patient}', 'langsamer'), ('aa', 'slower', 'a', 'a'),
               ('fr', 'hoarse', 'plus rauque que d''habitude', 'plus rauque')"""
    )
    assert in_words(records, ["slower"], "de") == "langsamer als sonst bei {patient}"
    assert in_words(records, ["slower"], "fr") == "slower than usual for {patient}"
    assert in_words(records, ["slower"], None) is not None
    expected = "with longer pauses than usual for {patient}, langsamer"
    assert in_words(records, ["longer_pauses", "slower"], "de") == expected
    assert in_words(records, ["slower", "hoarse"], "en") == "slower than usual for {patient}, plus rauque"


def test_every_reason_that_voice_gives_has_words_in_english(records: Records) -> None:
    reasons = records.rows("select unnest(array[above_reason, below_reason]) as reason from voice.features")
    written = records.rows(
        """select reason, text, further_text from care.reason_texts
           where language = 'en' and reason <> 'like_another'"""
    )
    assert {row["reason"] for row in reasons} == {row["reason"] for row in written}
    assert all("{patient}" in row["text"] and "{patient}" not in row["further_text"] for row in written)


def test_the_demos_slow_day_is_explained_and_its_usual_days_are_not(records: Records) -> None:
    calls = {}
    for file in sorted(RECORDINGS.glob("*.flac"))[:9]:
        speech = find_speech(decode(file.read_bytes(), None, 600), RecordingLimits(3, 8, 0.01, 600))
        calls[file.stem] = json.dumps({"features": asdict(speech.features)})
    patient_id = records.patient()
    learn(records, patient_id, list(calls.values())[:7])
    found = {name: list(unusual(records, patient_id, call)) for name, call in calls.items()}
    assert {name for name, reasons in found.items() if reasons} == {"08-slow-day"}
    assert in_words(records, found["08-slow-day"]) == "slower than usual for {patient}, in a lower voice"
