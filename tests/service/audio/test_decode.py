"""audio.decode(): formats, channels, resampling, clipping. What cannot be decoded is in test_hostile_files.py."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import av
import numpy as np
import numpy.typing as npt
import pytest
import soxr

from fixtures.hostile import claiming, in_container, wav_header, written
from retrocare.audio.decode import MOST_PIECES, PIECE_SECONDS, Audio, Channel, decode
from retrocare.audio.files import container_blocks
from retrocare.errors import NotAssessable

TONE_HZ = 440


def tone(rate: int = 16_000, seconds: float = 2.0, level: float = 0.3) -> npt.NDArray[np.float64]:
    return level * np.sin(2 * np.pi * TONE_HZ * np.arange(int(rate * seconds)) / rate)


def loudest_hz(audio: Audio) -> float:
    spectrum = np.abs(np.fft.rfft(audio.samples * np.hanning(len(audio.samples))))
    return float(spectrum.argmax() * audio.sample_rate / len(audio.samples))


def refusal(data: bytes, channel: Channel | None = None, maximum_seconds: float = 60) -> NotAssessable:
    with pytest.raises(NotAssessable) as refused:
        decode(data, channel, maximum_seconds)
    return refused.value


@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [
        ("WAV", "PCM_U8", 8_000), ("WAV", "PCM_16", 16_000), ("WAV", "PCM_24", 48_000), ("WAV", "FLOAT", 44_100),
        ("WAV", "ULAW", 8_000), ("WAV", "ALAW", 8_000), ("WAV", "GSM610", 8_000), ("FLAC", "PCM_16", 22_050),
        ("OGG", "VORBIS", 44_100), ("OGG", "OPUS", 48_000), ("MP3", None, 44_100), ("MP3", None, 8_000),
    ],
)  # fmt: skip
def test_decode_reads_every_format_that_telephony_uses(format: str, subtype: str | None, rate: int) -> None:
    audio = decode(written(tone(rate), rate, format, subtype), None, 60)
    assert audio.samples.dtype == np.float32
    assert audio.seconds == pytest.approx(2, abs=0.1)
    assert len(audio.samples) == pytest.approx(audio.seconds * audio.sample_rate, abs=2)
    assert loudest_hz(audio) == pytest.approx(TONE_HZ, abs=2)
    assert np.abs(audio.samples[4_000:-4_000]).max() == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize(("format", "codec"), [("mp4", "aac"), ("webm", "libopus")])
def test_decode_reads_m4a_and_webm_by_their_first_bytes(format: str, codec: str) -> None:
    audio = decode(in_container(tone(48_000), 48_000, format, codec), "customer", 60)
    assert (audio.sample_rate, audio.channel) == (16_000, "customer")
    assert audio.seconds == pytest.approx(2, abs=0.1)
    assert loudest_hz(audio) == pytest.approx(TONE_HZ, abs=2)


@pytest.mark.parametrize(("format", "codec"), [("mp4", "aac"), ("webm", "libopus")])
def test_decode_leaves_no_seam_where_one_block_of_a_container_ends(format: str, codec: str) -> None:
    audio = decode(in_container(tone(48_000, 17), 48_000, format, codec), "mono", 60)  # a block is less than 6 s
    assert audio.seconds == pytest.approx(17, abs=0.1)
    heard = audio.samples[8_000:-8_000]
    times = np.arange(len(heard)) / audio.sample_rate
    waves = np.stack([np.sin(2 * np.pi * TONE_HZ * times), np.cos(2 * np.pi * TONE_HZ * times)], axis=1)
    amplitudes = np.linalg.lstsq(waves, heard)[0]
    assert np.abs(heard - waves @ amplitudes).max() < 0.02


def test_decode_refuses_a_container_whose_samples_become_of_another_kind() -> None:
    def frame(format: str, layout: str = "mono", rate: int = 48_000) -> av.AudioFrame:
        made = av.AudioFrame(format=format, layout=layout, samples=960)
        made.sample_rate = rate
        return made

    for other in (frame("s16"), frame("fltp", "stereo"), frame("fltp", rate=44_100)):
        with pytest.raises(NotAssessable) as refused:
            list(container_blocks(iter([frame("fltp"), other]), 48_000, 1))
        assert refused.value.reason == "undecodable"


def test_decode_says_what_to_install_where_pyav_is_missing() -> None:
    program = """
import sys
sys.modules["av"] = None
from retrocare.audio.decode import decode
from retrocare.errors import NotAssessable
try:
    decode(b"\\0\\0\\0\\x20ftypM4A \\0\\0\\0\\0", None, 60)
except NotAssessable as refused:
    print(refused.reason, refused.measures["detail"])
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("undecodable")
    assert "install retrocare-voice[containers]" in said


def test_decode_refuses_m4a_that_is_too_long() -> None:
    refused = refusal(in_container(tone(48_000, 3), 48_000, "mp4", "aac"), maximum_seconds=2)
    assert (refused.reason, refused.measures["sample_rate"]) == ("too_long", 48_000)


@pytest.mark.parametrize(
    ("rate", "working_rate"),
    [
        (6_000, 8_000),
        (8_000, 8_000),
        (11_025, 8_000),
        (15_999, 8_000),
        (16_000, 16_000),
        (44_101, 16_000),
        (96_001, 16_000),
    ],
)
def test_decode_works_at_8_khz_below_16_khz_and_at_16_khz_above(rate: int, working_rate: int) -> None:
    data = written(tone(rate), rate)
    tracemalloc.start()
    audio = decode(data, None, 60)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert audio.sample_rate == working_rate
    assert len(audio.samples) == pytest.approx(2 * working_rate, abs=1)
    assert loudest_hz(audio) == pytest.approx(TONE_HZ, abs=2)
    assert most < 20e6


@pytest.mark.parametrize("channel", [None, "customer", "mono"])
def test_decode_takes_a_mono_file_as_the_patient(channel: Channel | None) -> None:
    assert decode(written(tone()), channel, 60).channel == (channel or "mono")


@pytest.mark.parametrize("channel", ["left", "right"])
def test_decode_takes_the_named_channel_of_two(channel: Channel) -> None:
    left, right = tone(), np.random.default_rng(0).normal(0, 0.1, 32_000)
    audio = decode(written(np.stack([left, right], axis=1)), channel, 60)
    assert audio.channel == channel
    np.testing.assert_allclose(audio.samples, left if channel == "left" else right, atol=1e-4)


@pytest.mark.parametrize("channel", [None, "customer", "mono", "left", "right"])
@pytest.mark.parametrize(("format", "channels"), [("WAV", 2), ("MP3", 2), ("OGG", 2), ("WAV", 4)])
def test_decode_takes_identical_channels_as_mono(channel: Channel | None, format: str, channels: int) -> None:
    audio = decode(written(np.stack([tone()] * channels, axis=1), 16_000, format), channel, 60)
    assert audio.channel == ("customer" if channel == "customer" else "mono")


def test_decode_refuses_two_voices_however_short_the_second_is() -> None:
    left, right = tone(seconds=20), tone(seconds=20)
    right[:16_000] += np.random.default_rng(0).normal(0, 0.1, 16_000)
    assert refusal(written(np.stack([left, right], axis=1))).reason == "ambiguous_channel"


def test_decode_refuses_what_is_too_long_and_says_how_long_it_is() -> None:
    refused = refusal(written(tone(seconds=3)), maximum_seconds=2.5)
    assert refused.reason == "too_long"
    assert refused.measures["seconds"] == 3.0
    assert decode(written(tone(seconds=3)), None, 3).seconds == 3


def test_decode_reads_a_stream_whose_header_does_not_know_its_length() -> None:
    assert decode(claiming(written(tone(), format="FLAC"), 0), None, 60).seconds == 2
    assert decode(wav_header(data_size=0xFFFFFFFF) + bytes(32_000), None, 60).seconds == 1


def test_decode_brings_a_loud_file_into_range() -> None:
    in_integers = decode(written(tone() * 32_767, subtype="FLOAT"), None, 60)
    assert np.abs(in_integers.samples).max() == pytest.approx(1)
    np.testing.assert_allclose(in_integers.samples, tone() / 0.3, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_decode_counts_clipping_where_it_is_before_resampling_hides_it(rate: int) -> None:
    wave = np.concatenate([tone(rate, 1, 0.5), np.clip(tone(rate, 1, 2.0), -0.9, 0.9)])
    clipping = decode(written(wave, rate), None, 60).clipping
    assert len(clipping) == 20
    assert clipping[:10].max() == 0
    assert clipping[10:].min() > 0.5  # |sin| is above 0.45 for 70 % of the time


def test_decode_takes_samples_one_step_below_the_recordings_peak_for_clipped_too() -> None:
    step = 1 / 32768
    wave = np.concatenate([np.clip(tone(level=2.0), -limit, limit) for limit in (0.9, 0.9 - step, 0.9 - 3 * step)])
    clipping = decode(written(wave), None, 60).clipping
    assert clipping[:40].min() > 0.5
    assert clipping[40:].max() == 0


def test_decode_takes_a_flat_wave_below_the_peak_for_no_clipping() -> None:
    wave = np.concatenate([np.clip(tone(seconds=1), -0.1, 0.1), tone(seconds=1)])
    assert decode(written(wave), None, 60).clipping.max() == 0


@pytest.mark.parametrize("level", [0.0003, 0.02, 0.3, 0.99])
def test_decode_takes_no_clean_tone_for_clipped(level: float) -> None:
    assert decode(written(tone(level=level)), None, 60).clipping.max() == 0


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_decode_leaves_no_seam_where_one_block_of_a_file_ends(rate: int, channels: int) -> None:
    wave = np.random.default_rng(0).normal(0, 0.05, (rate * 70 + 123, channels)).astype(np.float32)
    clipped = [rate * 5, rate * 34 + 7, rate * 70]  # in the first block, in another one, in the last tenth
    for first in clipped:
        wave[first : first + 50, -1] = 0.6
    audio = decode(written(wave, rate, subtype="FLOAT"), "right" if channels == 2 else None, 100)
    assert len(audio.clipping) == 701
    assert set(np.flatnonzero(audio.clipping)) == {50, 340, 700}
    expected = wave[:, -1] if rate == 8_000 else soxr.resample(wave[:, -1], rate, audio.sample_rate)
    np.testing.assert_allclose(audio.samples, expected[: len(audio.samples)], atol=1e-4)


def long_call(minutes: int, rate: int = 8_000) -> bytes:
    """A call with a chirp a second in which the frequency says the minute, and silence between."""
    times = np.arange(rate * 60) / rate
    made = [np.where(times % 1 < 0.5, 0.3, 0.001) * np.sin(2 * np.pi * (200 + 10 * n) * times) for n in range(minutes)]
    return written(np.concatenate(made), rate, "FLAC")


def test_decode_keeps_a_call_of_five_minutes_whole() -> None:
    audio = decode(long_call(5), None, 3600)
    assert len(audio.samples) == 5 * 60 * 8_000
    assert [piece.start for piece in audio.pieces] == [n * 5 * 8_000 for n in range(60)]


def test_decode_keeps_pieces_from_all_over_a_long_call() -> None:
    audio = decode(long_call(40), None, 3600)
    assert audio.seconds == 2400
    assert MOST_PIECES / 2 <= len(audio.pieces) < MOST_PIECES
    starts = np.array([piece.start for piece in audio.pieces]) / 8_000
    assert starts[0] < 80
    assert starts[-1] > 2400 - 85
    assert np.diff(starts).max() < 160  # a stretch of 80 s has one
    assert all(len(piece.samples) == PIECE_SECONDS * 8_000 for piece in audio.pieces)
    assert len(audio.clipping) == 24_000


def test_decode_keeps_the_liveliest_piece_of_every_neighbourhood() -> None:
    wave = np.random.default_rng(0).normal(0, 0.001, 20 * 60 * 8_000)
    lively = [13, 40, 97, 150, 203]  # in a stretch of their own, each
    for n in lively:
        wave[n * 40_000 : (n + 1) * 40_000] *= 100
    kept = {piece.start // 40_000 for piece in decode(written(wave, 8_000), None, 3600).pieces}
    assert set(lively) <= kept


def test_decode_measures_loudness_and_range_over_the_whole_of_a_long_call() -> None:
    wave = np.full(20 * 60 * 8_000, 0.1)
    wave[5 * 60 * 8_000 :] = 0.0
    wave[123] = 4.0  # in a piece that is kept or not
    audio = decode(written(wave, 8_000, subtype="FLOAT"), None, 3600)
    assert audio.loudness == pytest.approx(0.1 / 4, rel=1e-3)
    assert np.abs(audio.samples).max() <= 1
    assert audio.samples[1_000] == pytest.approx(0.025)


def test_decode_takes_no_more_memory_for_an_hour_than_for_ten_minutes() -> None:
    most = {}
    for minutes in (10, 60):
        data = long_call(minutes)
        tracemalloc.start()
        decode(data, None, 3600)
        most[minutes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most[60] < 1.15 * most[10]
    assert most[60] < 30e6
