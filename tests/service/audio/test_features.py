"""features.measure_features(): on signals whose pitch, syllables and pauses are known, and on real speech."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soxr

from fixtures.hostile import written
from retrocare.audio.decode import Audio, Piece, Samples, decode
from retrocare.audio.features import REFERENCE_HZ, Features, measure_features
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.cli.demo import RECORDINGS

ANYTHING = RecordingLimits(0, -100, 1, 3600)
CLEAN_DB = 30.0
RATES = [8_000, 16_000]
NEEDS_DB = {"pitch": 10, "tilt": 10, "syllable_rate": 15, "pitch_spread": 20, "pause_share": 20}


def semitones(hertz: float) -> float:
    return 12 * float(np.log2(hertz / REFERENCE_HZ))


def vowel(pitch_hz: Samples, sample_rate: int, lowest_hz: float = 0) -> Samples:
    """Sing: harmonics of a pitch that may change, whose level falls by 6 dB an octave; nothing below lowest_hz."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate
    waves = np.zeros(len(pitch_hz))
    for n in range(1, 40):
        is_heard = (n * pitch_hz < 3_400) & (n * pitch_hz > lowest_hz)
        waves += np.where(is_heard, np.sin(n * phase) / n, 0)
    return (0.1 * waves).astype(np.float32)


def steady(hertz: float, seconds: float, sample_rate: int) -> Samples:
    return np.full(round(seconds * sample_rate), hertz, np.float32)


def measured(samples: Samples, sample_rate: int, snr_db: float | None = CLEAN_DB) -> Features:
    return measure_features([Piece(0, samples)], sample_rate, snr_db)


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("hertz", [75, 110, 205, 390])
@pytest.mark.parametrize("lowest_hz", [0, 300])
def test_the_pitch_is_that_of_a_voice_even_where_the_telephone_has_taken_its_fundamental(
    hertz: float, lowest_hz: float, sample_rate: int
) -> None:
    found = measured(vowel(steady(hertz, 3, sample_rate), sample_rate, lowest_hz), sample_rate)
    assert found.pitch == pytest.approx(semitones(hertz), abs=0.1)
    assert found.pitch_spread == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("sample_rate", RATES)
def test_the_pitch_spread_is_from_the_tenth_to_the_ninetieth_percentile(sample_rate: int) -> None:
    glide = (150 * 2 ** np.linspace(0, 6 / 12, 5 * sample_rate)).astype(np.float32)  # six semitones
    found = measured(vowel(glide, sample_rate), sample_rate)
    assert found.pitch_spread == pytest.approx(0.8 * 6, abs=0.15)
    assert found.pitch == pytest.approx(semitones(150) + 3, abs=0.1)


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("rate", [2.0, 4.0, 6.0])
def test_the_syllable_rate_is_the_number_of_swells_in_a_second(rate: float, sample_rate: int) -> None:
    voice = vowel(steady(140, 5, sample_rate), sample_rate)
    swells = 0.5 - 0.5 * np.cos(2 * np.pi * rate * np.arange(len(voice)) / sample_rate)
    found = measured((voice * (0.05 + swells)).astype(np.float32), sample_rate)
    assert found.syllable_rate == pytest.approx(rate, abs=0.2)


def test_a_swell_of_less_than_two_decibels_is_no_syllable() -> None:
    voice = vowel(steady(140, 5, 8_000), 8_000)
    wave = np.sin(2 * np.pi * 4 * np.arange(len(voice)) / 8_000)
    for decibels, expected in ((0.6, 0.2), (2.0, 4.0)):  # half of what it swells by
        found = measured((voice * 10 ** (decibels * wave / 20)).astype(np.float32), 8_000)
        assert found.syllable_rate == pytest.approx(expected, abs=0.25)


def test_the_pause_share_is_that_of_the_time_in_which_the_patient_has_the_word() -> None:
    second = vowel(steady(140, 1, 8_000), 8_000)
    starts = np.array([0, 1.5, 3.0, 9.0]) * 8_000  # two pauses of half a second, then five that are another's
    found = measure_features([Piece(int(start), second) for start in starts], 8_000, CLEAN_DB)
    assert found.pause_share == pytest.approx(1 / 5)
    breathless = measure_features([Piece(n * 8_000, second) for n in range(4)], 8_000, CLEAN_DB)
    assert breathless.pause_share == 0


@pytest.mark.parametrize("sample_rate", RATES)
def test_the_tilt_is_the_power_of_the_high_band_over_that_of_the_low_one(sample_rate: int) -> None:
    times = np.arange(3 * sample_rate) / sample_rate
    for low, high in ((1.0, 0.1), (0.1, 0.1), (0.1, 1.0)):
        tones = low * np.sin(2 * np.pi * 600 * times) + high * np.sin(2 * np.pi * 2_000 * times)
        found = measured((0.1 * tones).astype(np.float32), sample_rate)
        assert found.tilt == pytest.approx(20 * np.log10(high / low), abs=0.1)


@pytest.mark.parametrize(("name", "needed_db"), NEEDS_DB.items())
def test_a_measure_is_withheld_below_the_snr_that_it_needs(name: str, needed_db: float) -> None:
    voice = vowel(steady(140, 3, 8_000), 8_000)
    assert asdict(measured(voice, 8_000, needed_db))[name] is not None
    assert asdict(measured(voice, 8_000, needed_db - 0.1))[name] is None


def test_an_unknown_snr_withholds_what_needs_more_than_15_db() -> None:
    voice = vowel(steady(140, 3, 8_000), 8_000)
    assert measured(voice, 8_000, None) == replace(measured(voice, 8_000), pitch_spread=None, pause_share=None)


def test_nothing_is_measured_in_less_than_two_seconds_and_no_pitch_where_no_more_is_voiced() -> None:
    assert measured(vowel(steady(140, 1.9, 8_000), 8_000), 8_000) == Features()
    hiss = np.random.default_rng(0).normal(0, 0.05, 5 * 8_000).astype(np.float32)
    found = measured(hiss, 8_000)
    assert (found.pitch, found.pitch_spread) == (None, None)
    assert found.tilt is not None
    for voiced_seconds, is_found in ((1.8, False), (2.2, True)):
        voice = np.concatenate([vowel(steady(140, voiced_seconds, 8_000), 8_000), hiss])
        assert (measured(voice, 8_000).pitch is not None) == is_found


def test_digital_silence_is_measured_without_a_warning() -> None:
    assert measured(np.zeros(5 * 8_000, np.float32), 8_000).pitch is None


def demo(name: str) -> Features:
    return find_speech(decode((RECORDINGS / f"{name}.flac").read_bytes(), None, 600), ANYTHING).features


def test_a_slow_day_is_measured_as_slower_than_the_usual_ones() -> None:
    usual = [demo(name) for name in ("01-enrol-monday", "02-enrol-tuesday", "03-enrol-wednesday", "04-usual-thursday")]
    slow = demo("08-slow-day")
    assert slow.syllable_rate is not None
    assert slow.syllable_rate < 0.9 * min(one.syllable_rate or 0 for one in usual)
    pitches = [one.pitch or 0 for one in usual]
    assert max(pitches) - min(pitches) < 1


def test_what_is_measured_does_not_depend_on_whether_the_speech_is_denoised() -> None:
    audio = decode((RECORDINGS / "01-enrol-monday.flac").read_bytes(), None, 600)
    assert find_speech(audio, ANYTHING, denoised=True).features == find_speech(audio, ANYTHING).features


def heard(samples: Samples, sample_rate: int) -> Audio:
    return decode(written(samples, sample_rate, subtype="FLOAT"), None, 3600)


@pytest.fixture(scope="module")
def people(speech_dir: Path) -> list[Samples]:
    """Three recordings of each of ten people, one after the other, at 16 kHz."""
    return [
        np.concatenate([decode(file.read_bytes(), None, 600).samples for file in sorted(folder.glob("*.flac"))[:3]])
        for folder in sorted((speech_dir / "librispeech").iterdir())
        if folder.is_dir()
    ]


def both(people: list[Samples]) -> Iterator[tuple[Features, Features]]:
    for voice in people:
        at_8_khz = find_speech(heard(soxr.resample(voice, 16_000, 8_000), 8_000), ANYTHING).features
        yield find_speech(heard(voice, 16_000), ANYTHING).features, at_8_khz


def test_real_speech_has_the_same_measures_at_8_and_at_16_khz(people: list[Samples]) -> None:
    pairs = list(both(people))
    limits = {"pitch": 0.2, "pitch_spread": 0.5, "syllable_rate": 0.25, "pause_share": 0.08, "tilt": 0.1}
    for name, limit in limits.items():
        apart = [
            abs(getattr(a, name) - getattr(b, name))
            for a, b in pairs
            if None not in (getattr(a, name), getattr(b, name))
        ]
        print(name, len(apart), "worst", max(apart))
        assert len(apart) >= 6
        assert max(apart) < limit


def test_pitch_agrees_with_librosas_pyin(people: list[Samples]) -> None:
    ours, theirs = [], []
    for voice in people:
        speech = find_speech(heard(voice, 16_000), ANYTHING)
        hertz, is_voiced, _ = librosa.pyin(
            speech.samples, fmin=60, fmax=400, sr=16_000, frame_length=1_024, hop_length=320
        )
        found = 12 * np.log2(hertz[is_voiced] / REFERENCE_HZ)
        ours.append((speech.features.pitch, speech.features.pitch_spread))
        theirs.append((np.median(found), np.subtract(*np.percentile(found, (90, 10)))))
    pitch, spread = (
        np.array([(a[n], b[n]) for a, b in zip(ours, theirs, strict=True) if a[n] is not None], float) for n in (0, 1)
    )
    print(np.abs(np.diff(pitch)).ravel(), np.diff(spread).ravel())
    assert np.corrcoef(pitch.T)[0, 1] > 0.98
    assert np.median(np.abs(np.diff(pitch))) < 0.5
    assert np.median(np.abs(np.diff(spread))) < 1


def test_fifty_spoken_digits_have_about_sixty_syllables(speech_dir: Path) -> None:
    counts = []
    for file in sorted((speech_dir / "digits").glob("*/session-01.flac")):
        speech = find_speech(decode(file.read_bytes(), None, 600), ANYTHING, np.inf)
        if speech.features.syllable_rate is not None:
            counts.append(speech.features.syllable_rate * speech.speech_seconds)
    print(counts)
    assert len(counts) >= 4
    assert 52 < np.median(counts) < 66
    assert min(counts) > 45


def test_noise_withholds_measures_instead_of_making_them_up(people: list[Samples]) -> None:
    random = np.random.default_rng(0)
    for voice in people[:4]:
        level = np.sqrt(np.mean(np.square(voice)))
        noisy = voice + random.normal(0, level, len(voice)).astype(np.float32) * np.float32(10 ** (-12 / 20))
        found = find_speech(heard(noisy, 16_000), ANYTHING)
        assert found.snr_db is not None
        assert found.snr_db < 15
        assert (found.features.syllable_rate, found.features.pitch_spread, found.features.pause_share) == (None,) * 3


def test_fifteen_seconds_of_speech_are_measured_in_a_tenth_of_a_second_of_cpu() -> None:
    voice = vowel(steady(140, 15, 16_000), 16_000)
    begun = time.process_time()
    measured(voice, 16_000)
    assert time.process_time() - begun < 1  # ten times as much: the machine may be busy
