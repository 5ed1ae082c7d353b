"""Bytes become the patient's channel: one float32 voice at 8 or 16 kHz, whatever file it came in.

A file's header is never trusted: the file is read block by block and every block is counted, so that neither memory nor
time depends on what the file claims. Of a long call only pieces are kept, so that memory does not grow with its length.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import soxr

from retrocare.audio.files import Source, opened
from retrocare.audio.stereo import ChannelComparison, Intervals
from retrocare.errors import NotAssessable

Samples = npt.NDArray[np.float32]  # (n,), mono, -1..1
NamedChannel = Literal["customer", "left", "right", "mono"]  # where a caller may say that the patient is
Channel = NamedChannel | Literal["mixed", "stereo"]  # and what a provider may give: one mix, or a side each
NAMED_CHANNELS: tuple[NamedChannel, ...] = get_args(NamedChannel)

LOWEST_RATE, HIGHEST_RATE = 6_000, 192_000
MOST_CHANNELS = 8
MOST_DECODED_BYTES = 3 << 29  # of float32: an hour of stereo at 48 kHz fits
LARGEST_SAMPLE = 2.0**15  # floating point files may be on the scale of 16-bit integers, never beyond
LENGTH_UNKNOWN = 1 << 48  # libsndfile's answer for streams that do not say how long they are is near 2**63
FLAT_RUN = 3  # so many samples in a row at the peak are clipped
FLAT_TOLERANCE = 1.5 / 32768
FAINTEST_CLIP = 0.1  # below a tenth of full scale, equal samples are quantisation steps, not clipping
PIECE_SECONDS = 5.0
MOST_PIECES = 64  # of a channel that are kept: calls of up to 320 s are kept whole


@dataclass(frozen=True, eq=False)
class Piece:
    """Hold some seconds of one channel."""

    start: int  # its first sample, counted from the beginning of the recording
    samples: Samples

    @cached_property
    def energy(self) -> float:
        return float(np.dot(self.samples, self.samples))


@dataclass(frozen=True, eq=False)
class Audio:
    """Hold one channel of a recording, or of a long one pieces from all over it, and what was measured on the whole.

    Shapes: clipping is (tenths of a second,): the share of samples that stay at the recording's peak, measured before
    resampling, which would hide it.
    """

    pieces: tuple[Piece, ...]  # in their order, each of PIECE_SECONDS but the recording's last
    sample_rate: int  # 8000 where the file has less than 16 kHz, else 16000
    channel: NamedChannel
    seconds: float
    loudness: float  # root mean square of all samples that are not digital silence; 0 where there is none
    clipping: npt.NDArray[np.float64]
    channel_margin_db: float | None = None  # where the channel was chosen by when the patient spoke

    @property
    def samples(self) -> Samples:
        """Join the pieces that are kept."""
        return np.concatenate([piece.samples for piece in self.pieces])


def decode(data: bytes, channel: Channel | None, maximum_seconds: float, intervals: Intervals = ()) -> Audio:
    """Decode a recording and take the channel on which the patient speaks.

    Two different channels need "left" or "right", or the intervals in which the patient spoke; a file of one channel
    has neither left nor right.

    Raises: NotAssessable with undecodable, too_long or ambiguous_channel.
    """
    with opened(data) as source:
        if not LOWEST_RATE <= source.rate <= HIGHEST_RATE:
            source.refuse("undecodable", detail=f"sample rate outside {LOWEST_RATE}..{HIGHEST_RATE} Hz")
        if not 1 <= source.channels <= MOST_CHANNELS:
            source.refuse("undecodable", detail=f"more than {MOST_CHANNELS} channels, or none")
        if channel == "mixed":
            source.refuse("ambiguous_channel", detail="patient and agent in one channel: mostly the agent's voice")
        if source.channels == 1 and channel in ("left", "right"):
            source.refuse("ambiguous_channel", detail=f"one channel only, no {channel} one")
        if source.frames < LENGTH_UNKNOWN:
            _check_length(source, source.frames, maximum_seconds)
        return _read(source, channel, maximum_seconds, intervals)


def claimed_seconds(data: bytes) -> float:
    """Return the length that a file claims, without decoding it; where it claims none, its size at 32 kbit/s."""
    try:
        with opened(data) as source:
            if 0 < source.frames < LENGTH_UNKNOWN and source.rate >= LOWEST_RATE:
                return source.frames / source.rate
    except NotAssessable:
        return 0.0
    return len(data) / 4000


def _read(source: Source, channel: Channel | None, maximum_seconds: float, intervals: Intervals) -> Audio:
    to_find = source.channels == 2 and channel in (None, "stereo") and bool(intervals)
    chosen = (0, 1) if to_find else (1,) if channel == "right" else (0,)
    voices = [_ChannelStream(source) for _ in chosen]
    comparison, frames = ChannelComparison(), 0
    for tenths in source.tenths():
        frames += tenths[0].size
        _check_length(source, frames, maximum_seconds)
        peaks = np.maximum(tenths.max(axis=2), -tenths.min(axis=2))  # (channels, tenths)
        if not peaks.max() <= LARGEST_SAMPLE:  # false for NaN too
            source.refuse("undecodable", detail="samples that are no numbers, or out of range")
        comparison.add(tenths)
        for n, voice in zip(chosen, voices, strict=True):
            voice.add(tenths[n], peaks[n])
    if source.frames < LENGTH_UNKNOWN and frames < 0.9 * source.frames:
        source.refuse("undecodable", seconds=round(frames / source.rate, 2), detail="truncated")
    seconds = frames / source.rate
    if comparison.is_one_voice and channel != "stereo":
        return voices[0].audio("customer" if channel == "customer" else "mono", seconds)
    if channel in ("left", "right") and source.channels == 2:
        return voices[0].audio(channel, seconds)
    if comparison.is_one_voice:
        source.refuse("ambiguous_channel", detail="two sides were promised, and both are the same: perhaps a mix")
    if not to_find:
        source.refuse("ambiguous_channel", detail="channels differ: say which one is the patient's")
    found = comparison.match(intervals, seconds)
    if found is None:
        source.refuse("ambiguous_channel", detail="the times of the patient's speech cover nothing, or everything")
    margin_db = round(found.margin_db, 1)
    if not found.is_clear:
        detail = "neither channel clearly follows the times of the patient's speech"
        source.refuse("ambiguous_channel", detail=detail, channel_margin_db=margin_db, match=round(found.match, 3))
    return voices[found.channel].audio("right" if found.channel else "left", seconds, margin_db)


class _ChannelStream:
    """Resample one channel, and keep pieces of it while it is read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rate = 8_000 if source.rate < 16_000 else 16_000
        self._resampler = soxr.ResampleStream(source.rate, self._rate, 1, dtype="float32")
        self._kept, self._flats = _PieceStore(round(PIECE_SECONDS * self._rate)), _ClippingCounter()

    def add(self, tenths: Samples, peaks: Samples) -> None:
        """Shapes: tenths is (tenths, samples), peaks is (tenths,)."""
        self._flats.count(tenths, peaks)
        self._keep(tenths.ravel())

    def audio(self, channel: NamedChannel, seconds: float, margin_db: float | None = None) -> Audio:
        self._keep(np.zeros(0, np.float32), last=True)
        pieces, loudness = self._kept.pieces()
        if not pieces:
            self._source.refuse("undecodable", detail="no samples")
        return Audio(pieces, self._rate, channel, seconds, loudness, self._flats.shares(), margin_db)

    def _keep(self, voice: Samples, last: bool = False) -> None:
        as_it_is = self._source.rate == self._rate
        self._kept.add(voice if as_it_is else self._resampler.resample_chunk(voice, last))


class _PieceStore:
    """Cut a channel into pieces; of a long one, keep the loudest of each group of neighbours."""

    def __init__(self, size: int) -> None:
        self._open, self._filled = np.empty(size, np.float32), 0
        self._pieces: list[Piece] = []
        self._cut, self._neighbours = 0, 1  # pieces cut so far; pieces of which one is kept
        self._energy, self._sounding, self._peak = 0.0, 0, 0.0

    def add(self, voice: Samples) -> None:
        while len(voice):
            part = voice[: len(self._open) - self._filled]
            self._open[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            voice = voice[len(part) :]
            if self._filled == len(self._open):
                self._cut_off()

    def pieces(self) -> tuple[tuple[Piece, ...], float]:
        """Return the pieces, scaled to within -1..1, and the loudness of the whole."""
        if self._filled:
            self._cut_off()
        scale = max(1.0, self._peak)
        if scale > 1:
            self._pieces = [Piece(piece.start, piece.samples / np.float32(scale)) for piece in self._pieces]
        return tuple(self._pieces), math.sqrt(self._energy / max(1, self._sounding)) / scale

    def _cut_off(self) -> None:
        piece = Piece(self._cut * len(self._open), self._open[: self._filled])
        self._open, self._filled = np.empty_like(self._open), 0
        self._energy += piece.energy
        self._sounding += int(np.count_nonzero(piece.samples != 0))
        self._peak = max(self._peak, float(piece.samples.max()), -float(piece.samples.min()))
        if len(self._pieces) * self._neighbours <= self._cut:
            self._pieces.append(piece)
        else:
            self._pieces[-1] = max(self._pieces[-1], piece, key=lambda piece: piece.energy)
        self._cut += 1
        if self._cut == MOST_PIECES * self._neighbours:
            pairs = zip(self._pieces[::2], self._pieces[1::2], strict=True)
            self._pieces = [max(pair, key=lambda piece: piece.energy) for pair in pairs]
            self._neighbours *= 2


class _ClippingCounter:
    """Measure, for each tenth of a second, the share of samples in a flat run at that tenth's peak."""

    def __init__(self) -> None:
        self.peaks, self.counts = array("d"), array("d")
        self._peak = FAINTEST_CLIP

    def count(self, tenths: Samples, peaks: Samples) -> None:
        """Shapes: tenths is (tenths, samples), peaks is (tenths,)."""
        exact = peaks.astype(np.float64)
        self._peak = max(self._peak, float(exact.max()))
        flat = np.zeros(len(tenths))
        loud = np.flatnonzero(exact >= self._peak - FLAT_TOLERANCE)  # the others cannot reach the recording's peak
        if len(loud):
            flat[loud] = _flat_shares(np.abs(tenths[loud]), peaks[loud])
        self.peaks.extend(exact.tolist())
        self.counts.extend(flat.tolist())

    def shares(self) -> npt.NDArray[np.float64]:
        peaks, counts = np.array(self.peaks), np.array(self.counts)
        at_the_peak = (peaks >= peaks.max() - FLAT_TOLERANCE) & (peaks >= FAINTEST_CLIP)
        return np.where(at_the_peak, counts, 0.0)


def _flat_shares(magnitude: Samples, peaks: Samples) -> npt.NDArray[np.float64]:
    """Return the share of each tenth's samples that are in a flat run at its peak."""
    shares = np.zeros(len(magnitude))
    at_peak = magnitude >= peaks[:, np.newaxis] - np.float32(FLAT_TOLERANCE)
    runs = magnitude.shape[1] - FLAT_RUN + 1
    suspects = np.flatnonzero(at_peak.sum(axis=1) >= FLAT_RUN)
    if runs > 0 and len(suspects):
        suspected = at_peak[suspects]
        begins = np.logical_and.reduce([suspected[:, n : n + runs] for n in range(FLAT_RUN)])
        covered = np.zeros_like(suspected)
        for n in range(FLAT_RUN):
            covered[:, n : n + runs] |= begins
        shares[suspects] = covered.mean(axis=1)
    return shares


def _check_length(source: Source, frames: int, maximum_seconds: float) -> None:
    seconds = round(frames / source.rate, 2)
    if seconds > maximum_seconds:
        source.refuse("too_long", seconds=seconds, maximum_seconds=maximum_seconds)
    if frames * source.channels * 4 > MOST_DECODED_BYTES:
        source.refuse("too_long", seconds=seconds, detail=f"more than {MOST_DECODED_BYTES >> 20} MB when decoded")
