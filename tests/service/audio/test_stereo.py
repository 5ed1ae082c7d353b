"""audio.stereo: which side of a stereo call is the patient's. ``pytest -s`` of this file prints the counts."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fixtures.dialogues import RATE, Dialogue, dialogues, voices
from fixtures.hostile import written
from fixtures.inputs import MODELS
from retrocare.audio.decode import NamedChannel, decode
from retrocare.audio.speech import RecordingLimits
from retrocare.audio.stereo import ChannelComparison, Intervals, intervals_of
from retrocare.checks.voiceprint import Voiceprint, make_voiceprint
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.loading import load_encoder
from retrocare.errors import NotAssessable

HOUR = 3600.0
SIDES: tuple[NamedChannel, ...] = ("left", "right")


@pytest.fixture(scope="module")
def people(speech_dir: Path) -> list[np.ndarray]:
    return voices(speech_dir)


@pytest.fixture(scope="module")
def calls(people: list[np.ndarray]) -> list[Dialogue]:
    return list(dialogues(people, 200, seed=1, shortest=40, longest=120))


def taken(call: Dialogue, intervals: Intervals) -> str:
    found = decided(call.recording, intervals)
    return found if found == "refused" else "right" if found == call.side else "wrong"


def decided(recording: bytes, intervals: Intervals) -> str:
    try:
        audio = decode(recording, None, HOUR, intervals)
    except NotAssessable as refused:
        return "refused" if refused.reason == "ambiguous_channel" else refused.reason
    return audio.channel if audio.channel_margin_db is not None else "without a margin"


def counted(title: str, found: Iterable[str]) -> Counter[str]:
    counts = Counter(found)
    print(f"\n{title}: " + ", ".join(f"{counts[name]} {name}" for name in ("right", "refused", "wrong")))
    return counts


def test_the_patients_side_is_found_in_calls_of_two_people(calls: list[Dialogue]) -> None:
    counts = counted("200 calls of 40 to 120 s", (taken(call, call.told) for call in calls))
    assert {call.side for call in calls} == {"left", "right"}
    assert counts["right"] >= 198
    assert counts["wrong"] == 0


def test_of_short_calls_more_are_refused_and_none_is_taken_wrong(people: list[np.ndarray]) -> None:
    short = dialogues(people, 100, seed=2, shortest=25, longest=35)
    counts = counted("100 calls of 25 to 35 s", (taken(call, call.told) for call in short))
    assert counts["right"] >= 90
    assert counts["wrong"] == 0


def test_times_of_another_call_are_nearly_always_refused(calls: list[Dialogue]) -> None:
    counts = counted("times of another call", (taken(call, other.told) for call, other in pairwise(calls)))
    assert counts["wrong"] <= 4
    assert counts["refused"] >= 185


@pytest.mark.parametrize("case", ["the whole call", "beyond its end", "a moment", "half a minute late"])
def test_times_that_tell_nothing_are_refused(calls: list[Dialogue], case: str) -> None:
    def told(call: Dialogue) -> Intervals:
        late = 30 if case == "half a minute late" else call.seconds
        cases: dict[str, Intervals] = {"the whole call": [(0.0, call.seconds)], "a moment": [call.told[0][:1] * 2]}
        return cases.get(case, [(start + late, end + late) for start, end in call.told])

    counts = counted(case, (taken(call, told(call)) for call in calls[:30]))
    assert counts["wrong"] == 0
    assert counts["refused"] >= (28 if case == "half a minute late" else 30)


def test_whoevers_times_are_told_is_taken(calls: list[Dialogue]) -> None:
    """Where a provider mixes up the roles, sound alone cannot know: the agent's side is taken."""
    counts = counted("the agent's times", (taken(call, call.agent_told) for call in calls[:40]))
    assert counts["right"] == 0


def test_the_times_have_no_say_where_the_channel_is_named() -> None:
    noise, told = talk()
    for side, samples in zip(SIDES, noise.T, strict=True):
        audio = decode(written(noise, RATE), side, HOUR, told)
        assert (audio.channel, audio.channel_margin_db) == (side, None)
        np.testing.assert_allclose(audio.samples, samples, atol=1e-4)
    with pytest.raises(NotAssessable):
        decode(written(noise, RATE), "customer", HOUR, told)


def talk(seconds: float = 8.0) -> tuple[np.ndarray, Intervals]:
    """Make two noises that alternate every two seconds; the right one begins."""
    noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * RATE), 2)).astype(np.float32)
    first = (np.arange(len(noise)) // (2 * RATE)) % 2 == 0
    noise[first, 0] *= 0.001
    noise[~first, 1] *= 0.001
    return noise, [(start, start + 2) for start in np.arange(0, seconds, 4)]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rate", [RATE, 11_025, 48_000])
def test_the_samples_are_those_of_the_side_that_is_found(side: NamedChannel, rate: int) -> None:
    noise, told = talk(48)
    stereo = noise[:, ::-1] if side == "left" else noise
    recording, scaled = written(stereo, rate), [(start * RATE / rate, end * RATE / rate) for start, end in told]
    found, named = decode(recording, None, HOUR, scaled), decode(recording, side, HOUR)
    assert found.channel == side
    assert 60 < (found.channel_margin_db or 0) < 90  # nearly twice the 43 dB between loud and the deepest that counts
    np.testing.assert_array_equal(found.samples, named.samples)
    np.testing.assert_array_equal(found.clipping, named.clipping)


def test_a_refusal_tells_the_margin() -> None:
    noise, told = talk()
    noise[:, 0] = 0.5 * noise[:, 1] + 0.01 * noise[:, 0]
    with pytest.raises(NotAssessable) as refused:
        decode(written(noise, RATE), None, HOUR, told)
    assert refused.value.reason == "ambiguous_channel"
    assert -12 < float(refused.value.measures["channel_margin_db"] or 99) < 12


def test_times_of_which_much_lies_beyond_the_end_are_refused() -> None:
    noise, told = talk()
    assert decided(written(noise, RATE), told) == "right"
    assert decided(written(noise, RATE), [*told, (8.5, 9.0)]) == "right"
    assert decided(written(noise, RATE), [*told, (8.5, 10.0)]) == "refused"


def test_match_counts_time_by_the_recordings_length() -> None:
    """A tenth is a whole number of samples, so at odd rates a long recording has more of them than ten a second."""
    tenths = np.full((2, 400, 1), 0.001, np.float32)
    tenths[1, 100:200] = tenths[0, :100] = tenths[0, 200:] = 0.1
    comparison = ChannelComparison()
    for some in np.split(tenths, [1, 250], axis=1):
        comparison.add(some)
    found = comparison.match([(5.0, 10.0)], seconds=20)
    assert found is not None
    assert (found.channel, found.match) == (1, 1.0)


def test_identical_channels_are_mono_whatever_the_times_say() -> None:
    noise, told = talk()
    audio = decode(written(np.repeat(noise[:, :1], 2, axis=1), RATE), None, HOUR, told)
    assert (audio.channel, audio.channel_margin_db) == ("mono", None)


@pytest.mark.parametrize("channels", [1, 2])
def test_patient_and_agent_mixed_into_one_are_refused(channels: int) -> None:
    noise, told = talk()
    with pytest.raises(NotAssessable) as refused:
        decode(written(np.repeat(noise[:, :1], channels, axis=1), RATE), "mixed", HOUR, told)
    assert refused.value.reason == "ambiguous_channel"
    assert "agent" in str(refused.value.measures["detail"])


@pytest.mark.parametrize("channels", [1, 2])
def test_two_sides_that_are_the_same_may_be_a_mix_and_are_refused(channels: int) -> None:
    noise, told = talk()
    with pytest.raises(NotAssessable) as refused:
        decode(written(np.repeat(noise[:, :1], channels, axis=1), RATE), "stereo", HOUR, told)
    assert refused.value.reason == "ambiguous_channel"


def test_of_two_sides_that_a_provider_promised_the_patients_is_found() -> None:
    noise, told = talk()
    recording = written(noise, RATE)
    assert decode(recording, "stereo", HOUR, told).channel == decode(recording, None, HOUR, told).channel
    with pytest.raises(NotAssessable):
        decode(recording, "stereo", HOUR)


def test_three_channels_are_not_searched() -> None:
    noise, told = talk()
    with pytest.raises(NotAssessable) as refused:
        decode(written(np.column_stack([noise, noise[:, 0]]), RATE), None, HOUR, told)
    assert refused.value.reason == "ambiguous_channel"


def test_finding_the_side_holds_no_more_than_both_voices_at_the_working_rate() -> None:
    noise, told = talk()
    recording = written(np.tile(noise, (60, 1)), 48_000)  # 80 s
    tracemalloc.start()
    audio = decode(recording, "left", HOUR)
    one = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    with pytest.raises(NotAssessable):
        decode(recording, None, HOUR, told)
    two = tracemalloc.get_traced_memory()[1] - audio.samples.nbytes
    tracemalloc.stop()
    assert two < one + 1.3 * audio.samples.nbytes


def test_a_voiceprint_keeps_the_side_and_its_margin() -> None:
    encoder = load_encoder("ge2e", model_dir=MODELS, ecapa_dir=None).encoder
    ana, other = (
        decode((RECORDINGS / f"{name}.flac").read_bytes(), None, HOUR).samples
        for name in ("01-enrol-monday", "10-another-voice")
    )
    stereo = np.zeros((len(ana) + len(other), 2), np.float32)
    stereo[: len(other), 0], stereo[len(other) :, 1] = other, ana
    told = [(len(other) / RATE, len(stereo) / RATE)]
    made = make_voiceprint(written(stereo, RATE), None, RecordingLimits(3, 8, 0.01, HOUR), encoder, told)
    alone = make_voiceprint(written(ana, RATE), None, RecordingLimits(3, 8, 0.01, HOUR), encoder)
    assert isinstance(made, Voiceprint)
    assert isinstance(alone, Voiceprint)
    assert (made.quality["channel"], alone.quality["channel"]) == ("right", "mono")
    assert made.quality["channel_margin_db"] > 30
    assert alone.quality["channel_margin_db"] is None
    assert float(made.embedding @ alone.embedding) > 0.99


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@given(JSON | st.lists(st.lists(st.floats() | st.integers(), min_size=2, max_size=2)))
@example([[1, 2], [3]])
@example([[1, 2], [True, 3]])
@example([[1, 2], [3, 10**400]])
@example("[[1, 2]]")
def test_intervals_of_reads_pairs_of_times_and_nothing_else(given: object) -> None:
    found = intervals_of(given)
    assert all(type(time) is float and abs(time) < 1e9 for pair in found for time in pair)
    assert all(start < end for start, end in found)
    if found:
        assert {tuple(map(float, pair)) for pair in given} >= set(found)  # type: ignore[attr-defined]


def test_intervals_of_trusts_nothing_where_a_part_is_garbage() -> None:
    assert intervals_of(json.loads("[[1, 2.5], [3, 4]]")) == ((1.0, 2.5), (3.0, 4.0))
    assert intervals_of([[1, 2], [4, 3], [5, 5]]) == ((1.0, 2.0),)
    broken: list[object] = [
        None,
        {},
        [],
        "x",
        [[1, 2], None],
        [[1, 2], [True, 3]],
        [[1, 2, 3]],
        [[1, "2"]],
        [[1, float("nan")]],
        [[0, 1]] * 10_001,
    ]
    assert [intervals_of(garbage) for garbage in broken] == [()] * len(broken)


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), max_size=8))
@example([(0.0, 1e9)])
@example([(-1e9, 2.0)])
@example([(0.0, 5e-324)])
def test_any_times_find_a_side_or_are_refused(pairs: list[tuple[float, float]]) -> None:
    noise, _ = talk(4)
    found = decided(written(noise, RATE), intervals_of([list(pair) for pair in pairs]))
    assert found in ("left", "right", "refused")
