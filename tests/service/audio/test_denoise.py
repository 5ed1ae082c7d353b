"""denoise.denoise(), and speech that find_speech() denoises. The voices are the demo's and LibriSpeech's."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soxr

from bench.noise import telephoned
from fixtures.hostile import written
from fixtures.inputs import MODELS
from retrocare.audio.decode import Audio, Samples, decode
from retrocare.audio.denoise import LEAST_GAIN, denoise
from retrocare.audio.speech import RecordingLimits, find_speech
from retrocare.calibration.evaluation import equal_error_rate
from retrocare.calibration.telephone import RATE, at_rate, babble, called, coloured, hum
from retrocare.cli.demo import RECORDINGS
from retrocare.encoders.embedding import embed, unit
from retrocare.encoders.loading import load_encoder
from retrocare.errors import NotAssessable

ANYTHING = RecordingLimits(0, -100, 1, 600)


def voice(sample_rate: int = RATE) -> Samples:
    """Speech without pauses, at a root mean square of 0.1."""
    audio = decode((RECORDINGS / "01-enrol-monday.flac").read_bytes(), None, 600)
    speech: Samples = soxr.resample(find_speech(audio, ANYTHING).samples, 16_000, sample_rate)
    return speech * np.float32(0.1 / np.sqrt(np.mean(np.square(speech))))


def hiss(count: int, level: float) -> Samples:
    return np.random.default_rng(0).normal(0, level, count).astype(np.float32)


def ratio_db(signal: Samples, error: Samples) -> float:
    return 10 * float(np.log10(np.sum(np.square(signal)) / np.sum(np.square(error))))


@pytest.mark.parametrize("sample_rate", [8_000, 16_000])
@pytest.mark.parametrize("snr_db", [0, 5, 10])
def test_denoise_brings_noisy_speech_nearer_to_the_voice(sample_rate: int, snr_db: int) -> None:
    said = voice(sample_rate)
    noise = hiss(len(said), 0.1 * 10 ** (-snr_db / 20))
    assert ratio_db(said, denoise(said + noise, sample_rate) - said) > snr_db + 3


def test_denoise_leaves_a_voice_without_noise_as_it_is() -> None:
    said = voice()
    assert ratio_db(said, denoise(said, RATE) - said) > 20


def test_denoise_follows_noise_that_grows_loud() -> None:
    said = voice()
    noise = hiss(len(said), 0.02)
    noise[len(noise) // 2 :] *= 4
    denoised = denoise(said + noise, RATE)
    for half in (slice(0, len(said) // 2), slice(len(said) // 2, None)):
        assert ratio_db(said[half], denoised[half] - said[half]) > ratio_db(said[half], noise[half]) + 1.5


def test_denoise_weakens_noise_alone_and_takes_nothing_away_as_a_whole() -> None:
    noise = hiss(80_000, 0.1)
    share = float(np.std(denoise(noise, RATE)) / np.std(noise))
    assert LEAST_GAIN <= share < 1.5 * LEAST_GAIN


@pytest.mark.parametrize("seconds", [0.5, 15])
def test_denoise_gives_back_every_sample_where_nothing_is_noise(seconds: float) -> None:
    clicks = np.zeros(int(seconds * RATE), np.float32)
    clicks[::4_000] = 0.5  # between them is silence, which is no noise
    np.testing.assert_allclose(denoise(clicks, RATE), clicks, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 2_000, 8_000])
@pytest.mark.parametrize("what", ["hiss", "silence", "constant", "clipped"])
@pytest.mark.parametrize("sample_rate", [8_000, 16_000])
def test_denoise_gives_as_many_numbers_as_it_gets(count: int, what: str, sample_rate: int) -> None:
    level = {"hiss": hiss(count, 0.1), "silence": 0, "constant": 0.5, "clipped": np.sign(hiss(count, 1))}[what]
    given = np.full(count, level, np.float32)
    denoised = denoise(given, sample_rate)
    assert len(denoised) == count
    assert denoised.dtype == np.float32
    assert np.isfinite(denoised).all()
    assert float(np.abs(denoised).max(initial=0)) <= 1.5
    assert what != "silence" or not denoised.any()


def test_denoise_finds_the_noise_beside_pauses_that_the_telephone_silenced() -> None:
    said = voice()
    noisy = said + hiss(len(said), 0.03)
    alone = denoise(noisy, RATE)
    gated = np.concatenate([np.concatenate([part, np.zeros(RATE, np.float32)]) for part in np.array_split(noisy, 3)])
    audio = decode(written(gated, RATE, subtype="FLOAT"), None, 600)
    found = find_speech(audio, ANYTHING, denoised=True).samples
    expected = soxr.resample(alone, RATE, 16_000)
    # The same share of what was there is left, whether or not silence was beside it.
    left = float(np.std(found) / np.std(find_speech(audio, ANYTHING).samples))
    assert left == pytest.approx(float(np.std(expected) / np.std(soxr.resample(noisy, RATE, 16_000))), abs=0.02)


@pytest.mark.parametrize("gain", [1e-3, 8])
def test_denoise_does_not_depend_on_loudness(gain: float) -> None:
    noisy = voice() + hiss(len(voice()), 0.03)
    louder = denoise((noisy * np.float32(gain)), RATE)
    np.testing.assert_allclose(louder / gain, denoise(noisy, RATE), atol=1e-5)


def test_denoise_gives_the_same_answer_again_and_leaves_what_it_got() -> None:
    noisy = voice() + hiss(len(voice()), 0.03)
    before = noisy.copy()
    np.testing.assert_array_equal(denoise(noisy, RATE), denoise(noisy, RATE))
    np.testing.assert_array_equal(noisy, before)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000])
def test_denoise_costs_little_beside_the_encoder(sample_rate: int) -> None:
    kept = hiss(15 * sample_rate, 0.1)
    spent = []
    for _ in range(10):
        begun = time.process_time()
        denoise(kept, sample_rate)
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.02


def noisy_call() -> Audio:
    return decode((RECORDINGS / "09-noisy-line.flac").read_bytes(), None, 600)


def test_find_speech_denoises_only_what_is_encoded() -> None:
    plain, denoised = (find_speech(noisy_call(), ANYTHING, denoised=denoised) for denoised in (False, True))
    assert len(denoised.samples) == len(plain.samples)
    assert np.std(denoised.samples) < 0.99 * np.std(plain.samples)
    for measure in ("speech_seconds", "snr_db", "clipped_share"):
        assert getattr(denoised, measure) == getattr(plain, measure)
    np.testing.assert_array_equal(find_speech(noisy_call(), ANYTHING).samples, plain.samples)


def test_find_speech_refuses_too_noisy_a_call_though_it_could_denoise_it() -> None:
    limits = RecordingLimits(3, 20, 1, 600)
    reasons = []
    for denoised in (False, True):
        with pytest.raises(NotAssessable) as refused:
            find_speech(noisy_call(), limits, denoised=denoised)
        reasons.append((refused.value.reason, refused.value.measures))
    assert reasons[0] == reasons[1]
    assert reasons[0][0] == "too_noisy"


def test_denoised_calls_tell_people_apart_better_in_noise_and_no_worse_without(speech_dir: Path) -> None:
    """Print how ten people on the telephone are told apart, as they are and denoised.

    Thirty pairs of one person are few for an error rate; how far noise moves them is clearer.
    """
    encoder = load_encoder("ge2e", model_dir=MODELS, ecapa_dir=None, threads=1).encoder
    people = [sorted(folder.glob("*.flac")) for folder in sorted((speech_dir / "librispeech").iterdir())]
    voices = [[telephoned(file) for file in files[:6]] for files in people if files]
    talking = [at_rate(file.read_bytes(), RATE) for file in sorted((speech_dir / "cohort").glob("*.flac"))[15:30]]
    kinds = {"hum": hum, "brown": coloured(2), "babble": babble(talking)}
    rates: dict[tuple[int | None, bool], float] = {}
    same_medians: dict[tuple[int | None, bool], float] = {}
    for denoised in (False, True):

        def vector(call: Audio, denoised: bool = denoised) -> Samples:
            return embed(find_speech(call, ANYTHING, 8, denoised).samples, encoder).vector

        enrolled = [
            unit(np.sum([vector(called(one)) for one in said[:3]], axis=0, keepdims=True))[0] for said in voices
        ]
        for snr_db in (None, 20, 10):
            same, other = [], []
            for n, said in enumerate(voices):
                for k, (one, make) in enumerate(zip(said[3:], kinds.values(), strict=True)):
                    noise = None if snr_db is None else make(np.random.default_rng(10 * n + k), len(one))
                    found = 1 - np.array(enrolled) @ vector(called(one, noise, snr_db or 0))
                    same.append(float(found[n]))
                    other += np.delete(found, n).tolist()
            rates[snr_db, denoised] = equal_error_rate(same, other)
            same_medians[snr_db, denoised] = float(np.median(same))
            print(f"{snr_db} dB, {denoised=}: {rates[snr_db, denoised]:.1%}, {same_medians[snr_db, denoised]:.3f}")
    assert rates[None, True] <= rates[None, False]
    assert rates[20, True] < 0.8 * rates[20, False]
    assert rates[10, True] < 0.7 * rates[10, False]
    for snr_db, left in ((20, 0.3), (10, 0.4)):
        before, after = (same_medians[snr_db, denoised] - same_medians[None, denoised] for denoised in (False, True))
        assert after < left * before
