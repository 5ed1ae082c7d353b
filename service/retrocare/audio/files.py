"""The bytes of any audio file become blocks of samples; neither its name nor its header is trusted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import soundfile

from retrocare.errors import NotAssessable

Block = npt.NDArray[np.float32]  # (frames, channels), as the file has them
Tenths = npt.NDArray[np.float32]  # (channels, tenths of a second, samples)

BLOCK_SAMPLES = 1 << 18  # of all channels together


@dataclass(frozen=True)
class Source:
    """Hold what a file says about itself, and yield its blocks while it is open."""

    rate: int
    channels: int
    frames: int  # as claimed; 0 where nothing is claimed
    blocks: Iterator[Block]  # of whole tenths of a second, but for the last one; the next may take its place in memory

    def tenths(self) -> Iterator[Tenths]:
        """Yield tenths of a second, many at a time; the last one comes alone, and is shorter."""
        size = self.rate // 10
        for block in self.blocks:
            whole = len(block) // size * size
            for part, length in ((block[:whole], size), (block[whole:], len(block) - whole)):
                if len(part):
                    yield np.ascontiguousarray(part.reshape(-1, length, self.channels).transpose(2, 0, 1))

    def refuse(self, reason: str, **measures: float | int | str) -> NoReturn:
        raise NotAssessable(reason, sample_rate=self.rate, channels=self.channels, **measures)


@contextmanager
def opened(data: bytes) -> Iterator[Source]:
    """Open a recording by its first bytes, not by a name or a content type."""
    container = "mp4" if data[4:8] == b"ftyp" else "matroska" if data[:4] == b"\x1a\x45\xdf\xa3" else None
    if container:
        with _container(data, container) as source:
            yield source
        return
    try:
        with _Forward(io.BytesIO(data)) as file:
            yield Source(file.samplerate, file.channels, file.frames, _sound_blocks(file))
    except soundfile.SoundFileError as error:
        raise NotAssessable("undecodable", detail="no audio format that is known here, or a broken one") from error


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile carries no types
    """Read from front to back only: soundfile seeks after every block, which fails where the length is unknown."""

    def seekable(self) -> bool:
        return False


def _frames_at_once(rate: int, channels: int) -> int:
    """Return how many frames a block has: so many whole tenths of a second as fit."""
    tenth = rate // 10
    return max(1, BLOCK_SAMPLES // channels // tenth) * tenth


def _sound_blocks(file: _Forward) -> Iterator[Block]:
    block = np.empty((_frames_at_once(file.samplerate, file.channels), file.channels), np.float32)
    filled = 0
    while count := len(file.read(out=block[filled:])):
        filled += count
        if filled == len(block):
            yield block
            filled = 0
    if filled:
        yield block[:filled]


@contextmanager
def _container(data: bytes, container: str) -> Iterator[Source]:
    """Open m4a or webm with PyAV; the format is fixed, so that a playlist cannot make it open other files."""
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
            yield Source(rate, channels, max(0, claimed), container_blocks(file.decode(stream), rate, channels))
    except av.FFmpegError as error:
        raise NotAssessable("undecodable", detail="a broken m4a or webm file") from error


def container_blocks(frames: Iterator[Any], rate: int, channels: int) -> Iterator[Block]:
    import av

    waiting = av.AudioFifo()  # a frame is 20 ms: handled one by one, they cost more than decoding them
    packed = av.AudioResampler(format="flt")  # floats, channel beside channel; the rate and the channels stay

    def block_of(frame: Any) -> Block:
        found = [one.to_ndarray().reshape(-1, channels) for one in packed.resample(frame)]
        return np.concatenate(found).astype(np.float32, copy=False)

    for frame in frames:
        frame.pts = None  # gaps in the times are no gaps in the sound
        try:
            if frame.sample_rate != rate or frame.layout.nb_channels != channels:
                raise ValueError("another rate, or other channels, than the file's")
            waiting.write(frame)
        except ValueError as error:
            detail = "the sample rate, the channels or their format change within the file"
            raise NotAssessable("undecodable", detail=detail) from error
        while (block := waiting.read(_frames_at_once(rate, channels))) is not None:
            yield block_of(block)
    if (rest := waiting.read(partial=True)) is not None:
        yield block_of(rest)
