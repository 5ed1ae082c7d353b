"""Hostile and broken files: what each is called, its bytes, the channel asked for, and why it cannot be judged."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from retrocare.audio.decode import NamedChannel

MAXIMUM_SECONDS = 600.0


@dataclass(frozen=True)
class HostileFile:
    name: str
    data: bytes
    reason: str
    channel: NamedChannel | None = None


def written(
    samples: npt.NDArray[np.floating], rate: int = 16_000, format: str = "WAV", subtype: str | None = None
) -> bytes:
    """Return a sound file as bytes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def in_container(samples: npt.NDArray[np.floating], rate: int, format: str, codec: str) -> bytes:
    """Return m4a ("mp4", "aac") or webm ("webm", "libopus") as bytes."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def wav_header(
    rate: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    data_size: int = 32_000,
    align: int | None = None,
) -> bytes:
    """Return the 44 bytes in front of a WAV file's samples, as they are told and not as they should be."""
    align = channels * bits // 8 if align is None else align
    described = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    return (
        b"RIFF" + struct.pack("<I", 36 + data_size & 0xFFFFFFFF) + b"WAVEfmt \x10\0\0\0" + described
        + b"data" + struct.pack("<I", data_size & 0xFFFFFFFF)
    )  # fmt: skip


def claiming(flac: bytes, samples: int) -> bytes:
    """Return a FLAC file whose header tells another length; 0 is the format's word for unknown."""
    return flac[:21] + bytes([flac[21] & 0xF0 | samples >> 32]) + (samples & 0xFFFFFFFF).to_bytes(4, "big") + flac[26:]


def _files() -> list[HostileFile]:
    random = np.random.default_rng(0)
    second = 0.1 * np.sin(np.arange(16_000) / 10)
    noise = 0.1 * random.normal(size=16_000)
    body = (second * 32767).astype("<i2").tobytes()
    wav, flac, ogg = written(second), written(noise, format="FLAC"), written(noise, format="OGG", subtype="VORBIS")
    opus, mp3 = written(noise, format="OGG", subtype="OPUS"), written(noise, format="MP3")
    m4a, webm = in_container(noise, 48_000, "mp4", "aac"), in_container(noise, 48_000, "webm", "libopus")
    two_voices = np.stack([second, noise], axis=1)
    one_silent = np.stack([noise, np.zeros_like(noise)], axis=1)
    not_numbers, infinite, huge = second.copy(), second.copy(), second.copy()
    not_numbers[8_000], infinite[8_000], huge[8_000] = np.nan, np.inf, 1e30
    bomb = written(np.zeros(16_000 * 60 * 60, np.int16), format="FLAC")  # an hour in a few hundred kilobytes
    wide = written(np.zeros((1_000, 8), np.int16), 192_000, "FLAC")
    refused = "undecodable"
    return [
        HostileFile("empty", b"", refused),
        HostileFile("one byte", b"R", refused),
        HostileFile("zeros", bytes(100_000), refused),
        HostileFile("text", b"The recording could not be found.\n" * 100, refused),
        HostileFile("html", b"<!doctype html><title>403</title>" + b" " * 5_000, refused),
        HostileFile("json", b'{"error": "expired"}', refused),
        HostileFile("noise of bytes", random.bytes(100_000), refused),
        HostileFile("png", b"\x89PNG\r\n\x1a\n" + random.bytes(5_000), refused),
        HostileFile("zip", b"PK\x03\x04" + random.bytes(5_000), refused),
        HostileFile("elf", b"\x7fELF" + random.bytes(5_000), refused),
        HostileFile("a playlist", b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:9,\nfile:///etc/passwd\n", refused),
        HostileFile("a list of files", b"ffconcat version 1.0\nfile /etc/passwd\n", refused),
        HostileFile("wav: RIFF and no more", wav[:4], refused),
        HostileFile("wav: half a header", wav[:30], refused),
        HostileFile("wav: a header only", wav_header(data_size=0), refused),
        HostileFile("wav: a header that promises", wav_header(), refused),
        HostileFile("wav: 0 Hz", wav_header(rate=0) + body, refused),
        HostileFile("wav: 1 Hz", wav_header(rate=1) + body, refused),
        HostileFile("wav: 4 GHz", wav_header(rate=0xFFFFFFFF) + body, refused),
        HostileFile("wav: 400 kHz", wav_header(rate=400_000) + body, refused),
        HostileFile("wav: no channel", wav_header(channels=0, align=2) + body, refused),
        HostileFile("wav: 32 channels", wav_header(channels=32) + body, refused),
        HostileFile("wav: 65,535 channels", wav_header(channels=65_535) + body, refused),
        HostileFile("wav: no bits", wav_header(bits=0, align=2) + body, refused),
        HostileFile("wav: a codec that nobody has", wav_header(tag=0x1234) + body, refused),
        HostileFile("wav: gsm at 1 Hz", wav_header(rate=1, tag=0x31, bits=0, align=65) + body, refused),
        HostileFile("wav: not a number", written(not_numbers, subtype="FLOAT"), refused),
        HostileFile("wav: infinite", written(infinite, subtype="FLOAT"), refused),
        HostileFile("wav: 1e30", written(huge, subtype="DOUBLE"), refused),
        HostileFile(
            "wav: twenty minutes", wav_header(8_000, bits=8, data_size=9_600_000) + bytes(9_600_000), "too_long"
        ),
        HostileFile("flac: the marker only", b"fLaC", refused),
        HostileFile("flac: truncated", flac[: len(flac) // 2], refused),
        HostileFile("flac: torn in the middle", flac[:9_000] + random.bytes(4_000) + flac[13_000:], refused),
        HostileFile("flac: 2 to the 36 samples claimed", claiming(flac, (1 << 36) - 1), "too_long"),
        HostileFile("flac: a bomb of an hour", bomb, "too_long"),
        HostileFile("flac: a bomb that hides its length", claiming(bomb, 0), "too_long"),
        HostileFile("flac: gigabytes within the time", claiming(wide, 192_000 * 500), "too_long"),
        HostileFile("ogg: first page only", ogg[:58], refused),
        HostileFile("ogg: no audio pages", ogg[:200], refused),
        HostileFile("opus: first page only", opus[:47], refused),
        HostileFile("mp3: truncated", mp3[: len(mp3) // 2], refused),
        HostileFile("mp3: half a frame", mp3[:100], refused),
        HostileFile("mp3: a tag only", b"ID3\x04\0\0\0\0\x0f\x76" + bytes(2_038), refused),
        HostileFile("m4a: first box only", m4a[:32], refused),
        HostileFile("m4a: truncated", m4a[: len(m4a) // 2], refused),
        HostileFile("webm: the marker only", webm[:4], refused),
        HostileFile("webm: half a header", webm[:100], refused),
        HostileFile("webm: noise of bytes", webm[:40] + random.bytes(50_000), refused),
        HostileFile("stereo without a channel named", written(two_voices), "ambiguous_channel"),
        HostileFile("stereo as mono", written(two_voices), "ambiguous_channel", "mono"),
        HostileFile("stereo as customer", written(two_voices), "ambiguous_channel", "customer"),
        HostileFile("stereo, one channel silent", written(one_silent), "ambiguous_channel"),
        HostileFile("three channels", written(np.stack([second, noise, second], axis=1)), "ambiguous_channel", "left"),
        HostileFile("mono, left asked for", wav, "ambiguous_channel", "left"),
        HostileFile("mono, right asked for", wav, "ambiguous_channel", "right"),
    ]


FILES = _files()
