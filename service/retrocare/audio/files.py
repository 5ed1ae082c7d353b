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
Tenths = npt.NDArray[np.float32]  # (tenths of a second, frames, channels)


@dataclass(frozen=True)
class Source:
    """Hold what a file says about itself, and yield its blocks while it is open."""

    rate: int
    channels: int
    frames: int  # as claimed; 0 where nothing is claimed
    blocks: Iterator[Block]

    def tenths(self) -> Iterator[Tenths]:
        """Cut the blocks into tenths of a second, many at a time; the last one comes alone, and is shorter."""
        size = self.rate // 10
        rest = np.zeros((0, self.channels), np.float32)
        for block in self.blocks:
            joined = np.concatenate([rest, block]) if len(rest) else block
            count = len(joined) // size
            if count:
                yield joined[: count * size].reshape(count, size, self.channels)
            rest = joined[count * size :].copy()
        if len(rest):
            yield rest[np.newaxis]

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


def _sound_blocks(file: _Forward) -> Iterator[Block]:
    frames = max(1, (1 << 18) // file.channels)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield block


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
            yield Source(rate, channels, max(0, claimed), _container_blocks(file.decode(stream), rate, channels))
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
