"""speech.find_speech(): what is kept, measured and refused. The voices are the demo's and LibriSpeech's."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fixtures.hostile import written
from retrocare.audio.decode import PIECE_SECONDS, Audio, Samples, decode
from retrocare.audio.speech import KEPT_SECONDS, RecordingLimits, find_speech
from retrocare.cli.demo import RECORDINGS
from retrocare.errors import NotAssessable

LIMITS = RecordingLimits(
    minimum_speech_seconds=3, minimum_snr_db=8, maximum_clipped_share=0.01, maximum_call_seconds=600
)
ANYTHING = RecordingLimits(0, -100, 1, 600)


def demo(name: str) -> Audio:
    return decode((RECORDINGS / f"{name}.flac").read_bytes(), None, 600)


def heard(samples: Samples, sample_rate: int = 8_000) -> Audio:
    return decode(written(samples, sample_rate, subtype="FLOAT"), None, 3600)


def refusal(audio: Audio, limits: RecordingLimits = LIMITS) -> NotAssessable:
    with pytest.raises(NotAssessable) as refused:
        find_speech(audio, limits)
    return refused.value


def line_noise(count: int, level: float = 0.01) -> Samples:
    return np.random.default_rng(0).normal(0, level, count).astype(np.float32)


def test_find_speech_keeps_the_speech_of_a_telephone_call_at_16_khz() -> None:
    audio = demo("01-enrol-monday")
    speech = find_speech(audio, LIMITS)
    assert audio.sample_rate == 8_000
    assert 9 < speech.speech_seconds < audio.seconds
    assert len(speech.samples) == pytest.approx(speech.speech_seconds * 16_000, abs=2)
    assert speech.samples.dtype == np.float32
    assert 30 < (speech.snr_db or 0) < 45
    assert speech.clipped_share == 0


def test_find_speech_leaves_out_the_pauses() -> None:
    call = demo("01-enrol-monday").samples
    alone = find_speech(heard(call), LIMITS)
    among_pauses = find_speech(
        heard(np.concatenate([line_noise(80_000, 0.001), call, line_noise(80_000, 0.001)])), LIMITS
    )
    assert among_pauses.speech_seconds == pytest.approx(alone.speech_seconds, abs=0.3)


@pytest.mark.parametrize("decibels", [-40, -20, 6])
def test_find_speech_hears_quiet_and_loud_calls_alike(decibels: float) -> None:
    call = demo("01-enrol-monday")
    other = heard((call.samples * 10 ** (decibels / 20)).astype(np.float32))
    expected, found = find_speech(call, LIMITS), find_speech(other, LIMITS)
    assert found.speech_seconds == pytest.approx(expected.speech_seconds, abs=0.2)
    assert found.snr_db == pytest.approx(expected.snr_db, abs=0.5)


def ramp(calls: int) -> Audio:
    """A call that grows louder, ten seconds of speech at a time."""
    levels = np.linspace(0.1, 1, calls)
    return heard(np.concatenate([level * demo("01-enrol-monday").samples for level in levels]).astype(np.float32))


@pytest.mark.parametrize("calls", [8, 60])
def test_find_speech_keeps_pieces_from_all_over_the_call(calls: int) -> None:
    speech = find_speech(ramp(calls), LIMITS)
    assert len(speech.samples) == KEPT_SECONDS * 16_000
    level = [float(np.sqrt(np.mean(np.square(piece)))) for piece in speech.samples.reshape(3, -1)]
    assert level == sorted(level)
    assert level[-1] > 2 * level[0]


def test_find_speech_stops_listening_when_it_has_what_the_budget_asks_for() -> None:
    call = ramp(20)
    assert call.seconds > 200
    assert KEPT_SECONDS <= find_speech(call, LIMITS).speech_seconds < KEPT_SECONDS + 2 * PIECE_SECONDS
    everything = find_speech(call, LIMITS, kept_seconds=math.inf)
    assert everything.speech_seconds > 150
    assert len(everything.samples) == pytest.approx(everything.speech_seconds * 16_000, abs=2)


def test_find_speech_listens_on_where_the_policy_asks_for_more_speech_than_the_budget() -> None:
    wanted = replace(LIMITS, minimum_speech_seconds=3 * KEPT_SECONDS)
    assert find_speech(ramp(20), wanted).speech_seconds >= 3 * KEPT_SECONDS


@pytest.mark.parametrize("minutes", [2, 20])
def test_find_speech_finds_the_little_that_is_said_in_a_long_call(minutes: int) -> None:
    call = demo("01-enrol-monday").samples
    said, silence = call, line_noise(minutes * 60 * 8_000, 1e-4)
    silence[40 * 8_000 : 40 * 8_000 + len(said)] += said
    found = find_speech(heard(silence), LIMITS).speech_seconds
    assert found > (9 if minutes == 2 else 4)  # of a call that is too long to be kept whole, some is left out


def test_find_speech_hears_across_its_own_seams() -> None:
    call = demo("01-enrol-monday").samples
    late = np.concatenate([line_noise(55 * 8_000, 0.001), call])  # a seam after 60 s, in the middle of the speech
    found, alone = find_speech(heard(late), LIMITS), find_speech(heard(call), LIMITS)
    assert found.speech_seconds == pytest.approx(alone.speech_seconds, abs=0.5)


@pytest.mark.parametrize("name", ["11-whisper", "12-silence"])
def test_find_speech_finds_no_speech_in(name: str) -> None:
    refused = refusal(demo(name))
    assert (refused.reason, refused.measures["speech_seconds"]) == ("no_speech", 0)


@pytest.mark.parametrize("level", [1e-4, 0.01, 0.3])
def test_find_speech_finds_no_speech_in_noise_nor_in_a_tone(level: float) -> None:
    assert refusal(heard(line_noise(80_000, level))).reason == "no_speech"
    tone = level * np.sin(np.arange(80_000) / 3)
    assert refusal(heard(tone.astype(np.float32))).reason == "no_speech"


def test_find_speech_refuses_too_little_speech_and_says_how_much_there_was() -> None:
    audio = demo("01-enrol-monday")
    speech_seconds = find_speech(audio, LIMITS).speech_seconds
    refused = refusal(audio, replace(LIMITS, minimum_speech_seconds=speech_seconds + 0.01))
    assert (refused.reason, refused.measures["speech_seconds"]) == ("too_little_speech", speech_seconds)
    assert find_speech(audio, replace(LIMITS, minimum_speech_seconds=speech_seconds))


def test_find_speech_refuses_too_noisy_a_call_and_judges_one_at_the_limit() -> None:
    audio = demo("09-noisy-line")
    snr_db = find_speech(audio, LIMITS).snr_db
    assert snr_db is not None
    assert 8 < snr_db < 15
    refused = refusal(audio, replace(LIMITS, minimum_snr_db=snr_db + 0.01))
    assert (refused.reason, refused.measures["snr_db"]) == ("too_noisy", snr_db)
    assert find_speech(audio, replace(LIMITS, minimum_snr_db=snr_db))


def test_find_speech_does_not_know_the_snr_of_a_call_whose_pauses_are_digital_silence() -> None:
    call = demo("01-enrol-monday").samples
    speech = find_speech(heard(call), LIMITS).samples[::2]
    gated = np.concatenate([np.zeros(16_000, np.float32), speech, np.zeros(16_000, np.float32)])
    assert find_speech(heard(gated), LIMITS).snr_db is None
    comfort_noise = np.concatenate([line_noise(16_000, 1e-6), speech, line_noise(16_000, 1e-6)])
    assert find_speech(heard(comfort_noise), LIMITS).snr_db is None


@pytest.mark.parametrize(("gain", "is_clipped"), [(1, False), (20, True)])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_find_speech_refuses_clipped_speech_at_any_rate(gain: float, is_clipped: bool, rate: int) -> None:
    import soxr

    wave = soxr.resample(demo("01-enrol-monday").samples, 8_000, rate) * gain
    audio = heard(np.clip(wave, -0.98, 0.98).astype(np.float32), rate)
    if is_clipped:
        refused = refusal(audio)
        assert refused.reason == "clipped"
        assert refused.measures["clipped_share"] > 0.01  # type: ignore[operator]
    else:
        assert find_speech(audio, LIMITS).clipped_share < 0.001


def test_find_speech_looks_for_clipping_where_the_speech_is() -> None:
    clipped = np.clip(20 * demo("01-enrol-monday").samples, -0.98, 0.98)
    late = np.concatenate([line_noise(60 * 8_000, 1e-4), clipped]).astype(np.float32)
    assert refusal(heard(late)).reason == "clipped"


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "PCM_U8"])
def test_find_speech_takes_coarse_telephone_steps_for_no_clipping(subtype: str) -> None:
    call = demo("01-enrol-monday").samples
    audio = decode(written(call / np.abs(call).max(), 8_000, subtype=subtype), None, 600)
    assert find_speech(audio, LIMITS).clipped_share < 0.005


def test_find_speech_gives_the_same_answer_to_threads_at_once() -> None:
    calls = [demo("01-enrol-monday"), demo("10-another-voice")] * 3
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda call: find_speech(call, LIMITS), calls))
    for call, speech in zip(calls, at_once, strict=True):
        np.testing.assert_array_equal(speech.samples, find_speech(call, LIMITS).samples)


def test_find_speech_hears_at_least_20_s_in_every_session_of_digits(speech_dir: Path) -> None:
    for file in sorted((speech_dir / "digits").glob("*/session-0[0-2].flac")):
        speech = find_speech(decode(file.read_bytes(), None, 600), replace(LIMITS, minimum_speech_seconds=20))
        assert speech.clipped_share < 0.001


def test_find_speech_reads_known_noise_as_its_docstring_says(speech_dir: Path) -> None:
    """Print, per noise and true SNR, the median that is read."""
    calls = [
        decode(min(folder.glob("*.flac"), key=lambda file: file.stat().st_size).read_bytes(), None, 600)
        for folder in sorted((speech_dir / "librispeech").iterdir())
        if folder.is_dir()
    ]
    voices = [find_speech(call, ANYTHING).samples for call in calls]
    read: dict[tuple[str, int], float] = {}
    for file in sorted((speech_dir / "noise").glob("*.flac")):
        noise = decode(file.read_bytes(), None, 600).samples
        for true_db in (0, 5, 10, 15, 20):
            found = []
            for call, voice in zip(calls, voices, strict=True):
                under = np.resize(noise, len(call.samples))
                gain = np.sqrt(np.mean(np.square(voice)) / np.mean(np.square(under)) / 10 ** (true_db / 10))
                mixed = (call.samples + gain * under).astype(np.float32)
                found.append(find_speech(heard(mixed, call.sample_rate), ANYTHING).snr_db)
            read[file.stem, true_db] = float(np.median([snr_db for snr_db in found if snr_db is not None]))
        print(file.stem, *(f"{true_db} dB reads {read[file.stem, true_db]:.1f}" for true_db in (0, 5, 10, 15, 20)))
    for steady in ("noise3", "noise5"):
        assert [read[steady, true_db] for true_db in (0, 5, 10, 15, 20)] == pytest.approx([2, 6, 10.5, 15, 19], abs=1)
    assert all(snr_db > true_db - 1.5 for (_, true_db), snr_db in read.items())  # it errs upwards, if at all
    assert read["noise4", 0] > 15  # it comes and goes: not seen
