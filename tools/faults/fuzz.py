"""Mutated recordings and requests: whatever comes, the service answers, with a code that programs know."""

from __future__ import annotations

import io
import json
import random
import struct
from collections import Counter
from uuid import uuid4

import httpx
import numpy as np
import psutil
import soundfile

from faults.crashes import Told
from fixtures.databases import Database
from fixtures.hostile import in_container
from fixtures.running import Running, running
from retrocare.cli.demo import RECORDINGS

MOST_GROWN_BYTES = 500_000_000  # by this process, which holds whatever ran in it before
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAV", "ALAW"),
    ("WAV", "GSM610"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def seeds() -> list[bytes]:
    """Give one short honest recording of each format."""
    samples, rate = soundfile.read(RECORDINGS / "01-enrol-monday.flac", dtype="float32", frames=4 * 8000)
    found = []
    for format, subtype in FORMATS:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
        found.append(buffer.getvalue())
    found.append(in_container(np.repeat(samples, 2), 16_000, "mp4", "aac"))
    found.append(in_container(np.repeat(samples, 6), 48_000, "webm", "libopus"))
    return found


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Break a file in one to eight places: flipped, lost, doubled, swapped for what breaks parsers, cut short."""
    broken = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if not broken:
            break
        # Half of the damage goes to the head, where formats keep what they believe.
        at = chance.randrange(min(len(broken), 128) if chance.random() < 0.5 else len(broken))
        match chance.randrange(6):
            case 0:
                broken[at] ^= 1 << chance.randrange(8)
            case 1:
                value = chance.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF])
                broken[at : at + 4] = struct.pack("<I", value)
            case 2:
                del broken[at : at + chance.randint(1, 64)]
            case 3:
                broken[at:at] = broken[at : at + chance.randint(1, 64)]
            case 4:
                broken[at:at] = chance.randbytes(chance.randint(1, 64))
            case 5:
                del broken[chance.randrange(len(broken)) :]
    return bytes(broken)


def fuzzed_recordings(database: Database, count: int, seed: int = 1) -> Told:
    """Send mutated recordings: each is embedded, or refused with the reason."""
    chance = random.Random(seed)
    honest = seeds()
    codes: Counter[str] = Counter()
    before = psutil.Process().memory_info().rss
    with running(database) as app:
        for number in range(count):
            file = mutated(honest[number % len(honest)], chance)
            answer = app.client.post("/embed", files={"file": file})
            codes[coded(answer)] += 1
        survived(app, before)
    return {"recordings": count, "answers": dict(codes.most_common()), "memory": memory()}


def fuzzed_requests(database: Database, count: int, seed: int = 1) -> Told:
    """Send mutated requests to every route: each is answered, and none with a server error."""
    chance = random.Random(seed)
    codes: Counter[str] = Counter()
    before = psutil.Process().memory_info().rss
    with running(database) as app:
        patient_id = str(app.records.patient())
        bodies: list[tuple[str, dict[str, object] | None]] = [
            ("/embed", {"audio_url": "https://example.org/x", "sample_rate": 16000, "channel": "left"}),
            ("/compare", {"baseline": [1.0, 0.0], "current": [0.0, 1.0], "snr": 3.5, "hour": 7, "encoder": "ge2e-v1"}),
            ("/api/anomaly-check", {"patientId": patient_id, "audioUrl": "https://example.org/x", "callLogId": None}),
            (f"/api/patients/{patient_id}/baseline", {"audioUrls": ["https://example.org/x"], "channel": "mono"}),
            (f"/api/anomaly-logs/{patient_id}", None),
            ("/api/anomaly-logs?patientIds=" + patient_id + "&days=7", None),
        ]
        for number in range(count):
            path, body = bodies[number % len(bodies)]
            if body is None or chance.random() < 0.2:
                path = "/" + mutated(path.encode(), chance).decode("latin-1").lstrip("/")
            if body and chance.random() < 0.6:
                content: bytes | None = json.dumps(odd(body, chance)).encode()
            else:
                content = mutated(json.dumps(body).encode(), chance) if body else None
            method = "POST" if body else "GET"
            kind = chance.choice(["application/json"] * 4 + ["multipart/form-data; boundary=x", "text/plain", ""])
            url = str(app.client.base_url).rstrip("/") + "".join(
                letter if 32 < ord(letter) < 127 and letter not in "#\\" else f"%{ord(letter) % 256:02X}"
                for letter in path
            )
            try:
                answer = app.client.request(method, url, headers={"Content-Type": kind}, content=content)
            except (httpx.InvalidURL, httpx.LocalProtocolError):
                codes["not a request"] += 1
                continue
            codes[coded(answer)] += 1
        survived(app, before)
    return {"requests": count, "answers": dict(codes.most_common()), "memory": memory()}


def odd(body: dict[str, object], chance: random.Random) -> dict[str, object]:
    """Replace, add or leave out a value: the JSON stays JSON."""
    values: list[object] = [
        None,
        "",
        "x" * 10_000,
        "\0",
        -1,
        1e308,
        2**70,
        True,
        [],
        {},
        [None],
        ["\ud800"],
        str(uuid4()),
        "left",
        [0.0, 0.0],
    ]
    key = chance.choice([*body, "unknown"])
    if chance.random() < 0.2:
        return {name: value for name, value in body.items() if name != key}
    return {**body, key: chance.choice(values)}


def coded(answer: httpx.Response) -> str:
    """Return the stable code of an answer."""
    if answer.is_success or answer.is_redirect:  # / leads to /docs
        return "ok"
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    code: str = answer.json()["code"]
    refused = code in ("recording_refused",)
    assert answer.status_code < 500 or refused, f"{answer.status_code}: {answer.text}"
    return code


def survived(app: Running, before: int) -> None:
    honest = (RECORDINGS / "01-enrol-monday.flac").read_bytes()
    assert app.client.post("/embed", files={"file": honest}).status_code == 200
    assert app.client.get("/readyz").status_code == 200
    unknown = app.client.get(f"/api/anomaly-logs/{uuid4()}")
    assert unknown.json() == {"logs": []}
    assert psutil.Process().memory_info().rss - before < MOST_GROWN_BYTES


def memory() -> str:
    return f"{psutil.Process().memory_info().rss / 1e6:.0f} MB"
