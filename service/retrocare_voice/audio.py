"""Bytes become the patient's channel: one float32 voice at 8 or 16 kHz, whatever file it came in.

Nothing here trusts a header. Files are read block by block and every block is counted, so that neither memory nor time
follows what a file claims about itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from retrocare_voice.errors import NotAssessable

Samples = npt.NDArray[np.float32]  # (n,), mono, -1..1
Block = npt.NDArray[np.float32]  # (frames, channels), as the file has them
Channel = Literal["customer", "left", "right", "mono"]

LOWEST_RATE, HIGHEST_RATE = 6_000, 192_000
MOST_CHANNELS = 8
MOST_DECODED_BYTES = 3 << 29  # of float32: an hour of stereo at 48 kHz fits
LARGEST_SAMPLE = 2.0**15  # floating point files may be on the scale of 16-bit integers, never beyond
SAME_CHANNEL = 1e-3  # channels whose difference is 30 dB below the first one carry one voice
LENGTH_UNKNOWN = 1 << 48  # libsndfile's answer for streams that do not say how long they are is near 2**63
FLAT_RUN = 3  # as many samples in a row at the peak are a clipped wave
FLAT_TOLERANCE = 1.5 / 32768
FAINTEST_CLIP = 0.1  # below a tenth of full scale, equal samples are coarse steps and no clipping


@dataclass(frozen=True, eq=False)
class Audio:
    """Hold one channel of a recording.

    *Shapes*: clipping is (tenths of a second,), the share of each one's samples that stay at the recording's peak,
    counted before resampling, which would hide it.
    """

    samples: Samples
    sample_rate: int  # 8000 where the file has less than 16 kHz, else 16000
    channel: Channel
    seconds: float
    clipping: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Source:
    rate: int
    channels: int
    frames: int  # as claimed; 0 where nothing is claimed
    blocks: Iterator[Block]


def decode(data: bytes, channel: Channel | None, maximum_seconds: float) -> Audio:
    """Decode a recording and take the channel on which the patient speaks.

    *Raises*: NotAssessable with undecodable, too_long or ambiguous_channel: two different channels need "left" or
    "right", a file of one channel has neither.
    """
    with _open(data) as source:
        if not LOWEST_RATE <= source.rate <= HIGHEST_RATE:
            _refuse("undecodable", source, detail=f"sample rate outside {LOWEST_RATE}..{HIGHEST_RATE} Hz")
        if not 1 <= source.channels <= MOST_CHANNELS:
            _refuse("undecodable", source, detail=f"more than {MOST_CHANNELS} channels, or none")
        if source.channels == 1 and channel in ("left", "right"):
            _refuse("ambiguous_channel", source, detail=f"one channel only, no {channel} one")
        if source.frames < LENGTH_UNKNOWN:
            _check_length(source, source.frames, maximum_seconds)
        return _read(source, channel, maximum_seconds)


def claimed_seconds(data: bytes) -> float:
    """Return how long a recording says it is, undecoded; where it does not say, what its size allows at 32 kbit/s."""
    try:
        with _open(data) as source:
            if 0 < source.frames < LENGTH_UNKNOWN and source.rate >= LOWEST_RATE:
                return source.frames / source.rate
    except NotAssessable:
        return 0.0
    return len(data) / 4000


def _read(source: _Source, channel: Channel | None, maximum_seconds: float) -> Audio:
    wanted = 1 if channel == "right" else 0
    working_rate = 8_000 if source.rate < 16_000 else 16_000
    resampler = soxr.ResampleStream(source.rate, working_rate, 1, dtype="float32")
    kept, frames = bytearray(), 0
    energy = difference = 0.0
    flats = _Flats()
    for block in _tenths(source):
        frames += len(block)
        _check_length(source, frames, maximum_seconds)
        highest = float(np.abs(block).max())
        if not highest <= LARGEST_SAMPLE:  # false for NaN too
            _refuse("undecodable", source, detail="samples that are no numbers, or out of range")
        voice = np.ascontiguousarray(block[:, wanted])
        if source.channels > 1:
            first = block[:, :1].astype(np.float64)
            energy += float(np.square(first).sum()) * (source.channels - 1)
            difference += float(np.square(block[:, 1:] - first).sum())
        flats.count(voice)
        kept += (voice if source.rate == working_rate else resampler.resample_chunk(voice)).tobytes()
    if source.rate != working_rate:
        kept += resampler.resample_chunk(np.zeros(0, np.float32), last=True).tobytes()
    if not kept:
        _refuse("undecodable", source, detail="no samples")
    if source.frames < LENGTH_UNKNOWN and frames < 0.9 * source.frames:
        _refuse("undecodable", source, seconds=round(frames / source.rate, 2), detail="truncated")
    one_voice = difference <= SAME_CHANNEL * energy
    if not one_voice and (source.channels > 2 or channel not in ("left", "right")):
        _refuse("ambiguous_channel", source, detail="channels differ: say which one is the patient's")
    samples = np.frombuffer(kept, np.float32)
    peak = max(float(samples.max()), -float(samples.min()))
    if peak > 1:
        samples /= peak
    taken: Channel = "customer" if channel == "customer" else "mono"
    if not one_voice and channel is not None:
        taken = channel
    return Audio(samples, working_rate, taken, frames / source.rate, flats.shares())


class _Flats:
    """Count, for each tenth of a second, the samples that stay at that tenth's peak."""

    def __init__(self) -> None:
        self.peaks: list[float] = []
        self.counts: list[float] = []

    def count(self, voice: Samples) -> None:
        magnitude = np.abs(voice)
        peak = float(magnitude.max())
        edges = np.flatnonzero(np.diff(magnitude >= peak - FLAT_TOLERANCE, prepend=False, append=False))
        runs = edges[1::2] - edges[::2]
        self.peaks.append(peak)
        self.counts.append(float(runs[runs >= FLAT_RUN].sum()) / len(voice))

    def shares(self) -> npt.NDArray[np.float64]:
        peaks, counts = np.array(self.peaks), np.array(self.counts)
        at_the_peak = (peaks >= peaks.max() - FLAT_TOLERANCE) & (peaks >= FAINTEST_CLIP)
        return np.where(at_the_peak, counts, 0.0)


def _tenths(source: _Source) -> Iterator[Block]:
    """Cut blocks of any length into tenths of a second, the last one shorter."""
    size = source.rate // 10
    rest = np.zeros((0, source.channels), np.float32)
    for block in source.blocks:
        joined = np.concatenate([rest, block]) if len(rest) else block
        whole = len(joined) - len(joined) % size
        for start in range(0, whole, size):
            yield joined[start : start + size]
        rest = joined[whole:].copy()
    if len(rest):
        yield rest


def _check_length(source: _Source, frames: int, maximum_seconds: float) -> None:
    seconds = round(frames / source.rate, 2)
    if seconds > maximum_seconds:
        _refuse("too_long", source, seconds=seconds, maximum_seconds=maximum_seconds)
    if frames * source.channels * 4 > MOST_DECODED_BYTES:
        _refuse("too_long", source, seconds=seconds, detail=f"more than {MOST_DECODED_BYTES >> 20} MB when decoded")


@contextmanager
def _open(data: bytes) -> Iterator[_Source]:
    """Open a recording by what its first bytes are; its name and its content type have no say."""
    container = "mp4" if data[4:8] == b"ftyp" else "matroska" if data[:4] == b"\x1a\x45\xdf\xa3" else None
    if container:
        with _open_container(data, container) as source:
            yield source
        return
    try:
        with _Forward(io.BytesIO(data)) as file:
            yield _Source(file.samplerate, file.channels, file.frames, _sound_blocks(file))
    except soundfile.SoundFileError as error:
        raise NotAssessable("undecodable", detail="no audio format that is known here, or a broken one") from error


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile carries no types
    """Read from front to back only: soundfile seeks after every block, which a file of unknown length does not bear."""

    def seekable(self) -> bool:
        return False


def _sound_blocks(file: _Forward) -> Iterator[Block]:
    frames = max(1, (1 << 18) // file.channels)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield block


@contextmanager
def _open_container(data: bytes, container: str) -> Iterator[_Source]:
    """Open m4a or webm with PyAV; the format is named, so that no playlist can send it to other files."""
    try:
        import av
    except ImportError:
        detail = "m4a and webm need PyAV: install retrocare-voice[containers]"
        raise NotAssessable("undecodable", detail=detail) from None
    try:
        with av.open(io.BytesIO(data), mode="r", format=container, metadata_errors="ignore") as file:
            stream: Any = file.streams.audio[0] if file.streams.audio else None
            if stream is None or stream.codec_context is None:
                raise NotAssessable("undecodable", detail="no audio in this container, or of an unknown kind")
            rate, channels = stream.rate or 0, stream.channels
            claimed = (file.duration or 0) * rate // av.time_base
            yield _Source(rate, channels, max(0, claimed), _container_blocks(file.decode(stream), rate, channels))
    except av.FFmpegError as error:
        raise NotAssessable("undecodable", detail="a broken m4a or webm file") from error


def _container_blocks(frames: Iterator[Any], rate: int, channels: int) -> Iterator[Block]:
    import av

    resampler = av.AudioResampler(format="flt")  # packed floats; the rate and the channels stay
    for frame in frames:
        if frame.sample_rate != rate or frame.layout.nb_channels != channels:
            raise NotAssessable("undecodable", detail="the sample rate or the channels change within the file")
        for packed in resampler.resample(frame):
            yield packed.to_ndarray().astype(np.float32, copy=False).reshape(-1, channels)


def _refuse(reason: str, source: _Source, **measures: float | int | str) -> NoReturn:
    raise NotAssessable(reason, sample_rate=source.rate, channels=source.channels, **measures)
