"""Search across patients: whether the nearest voice is found, how fast, and what the index costs those who complete.

Among the most voices, the search is tried with several breadths, in little memory and in enough for the index: what
bounds it is then in the table.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pgvector import Vector

from bench import p50_and_p95
from bench.bulk import (
    CONSENTS,
    Field,
    Mixture,
    Vectors,
    copy_rows,
    near,
    numbers,
    progress,
    rebuild,
    the_same,
    times,
    uuids,
    vectors,
    without_rules,
)  # fmt: skip
from fixtures.databases import Connection, Database, Server
from fixtures.records import Records

ENCODER, DIMENSION = "ecapa-voxceleb-v1", 192
TABLES = ("public.patients", "voice.baselines", "voice.baseline_samples")
BATCH = 20_000
BREADTHS = (100, 150, 200, 300, 400)
FOR_LOADING, FOR_SEARCHING, SMALL = "2GB", "1GB", "128MB"  # shared buffers; the last is PostgreSQL's own default
LIKE_ITSELF = 0.85  # the cosine of a call to its patient's baseline: an anomaly of 0.15


@dataclass(frozen=True)
class Found:
    """How well and how fast the nearest of so many voices is found; and what that costs."""

    voices: int
    recall_at_1: float
    p50_ms: float
    p95_ms: float
    nobody_p95_ms: float  # of a voice that nobody has: it is looked for twice
    load_seconds: float
    build_seconds: float
    index_bytes: int
    completion_ms: float  # median of checks that add to a baseline
    completion_without_ms: float  # the same, after the index was dropped


@dataclass(frozen=True)
class Index:
    """What is searched, and how long it took to make."""

    name: str
    bytes: int
    load_seconds: float
    build_seconds: float


@dataclass(frozen=True)
class Tried:
    """How well and how fast a breadth finds the nearest, where the server has so much memory.

    The pages that a search touches do not depend on the other load of the machine, as its time does.
    """

    voices: int
    shared_buffers: str
    breadth: int
    recall_at_1: float
    p50_ms: float
    p95_ms: float
    pages: float  # of 8 kB, median
    pages_missed: float  # those that were not in the shared buffers, median


@dataclass(frozen=True, eq=False)
class Questions:
    """Voices to look for, and the numbers of those that sound most alike."""

    asked: Vectors
    nearest: Sequence[int]

    def recall_at_1(self, found: Sequence[int | None]) -> float:
        return sum(one == best for one, best in zip(found, self.nearest, strict=True)) / len(self.nearest)


Serve = Callable[[str], AbstractContextManager[Server]]  # starts the server on its data, with these shared buffers


def bench_search(
    serve: Serve,
    size: int,
    queries: int = 500,
    breadths: Sequence[int] = BREADTHS,
    tell: Callable[[str], None] = print,
) -> tuple[Found, list[Tried]]:
    """Enrol so many voices, and look for one of them after the other as it sounds in another call."""
    tried = []
    with ExitStack() as kept:
        with serve(FOR_LOADING) as server:
            database = kept.enter_context(server.clone(server.migrated_template))
            mixture = Mixture(DIMENSION)
            voices = mixture.voices(size)
            index = _enrolled(database, voices, mixture, tell)
            database.close()
        questions = _questions(voices, mixture, queries)
        strangers = mixture.voices(max(20, queries // 5))
        for memory in (SMALL, FOR_SEARCHING) if breadths else ():
            with serve(memory):
                tried += [_tried(database, size, memory, breadth, questions) for breadth in breadths]
                database.close()
            tell(f"   {size:>9,} voices searched with {len(breadths)} breadths, shared buffers of {memory}")
        with serve(FOR_SEARCHING):
            found = _measured(database, voices, questions, strangers, index, tell)
            database.close()
    return found, tried


def _enrolled(database: Database, voices: Vectors, mixture: Mixture, tell: Callable[[str], None]) -> Index:
    size = len(voices)
    Records(database).register(ENCODER, DIMENSION)
    begun = time.monotonic()
    with without_rules(database.admin, *TABLES):
        _load(database.admin, voices, mixture)
    loaded = time.monotonic() - begun
    tell(f"   {size:>9,} voices loaded in {loaded:.0f} s")
    taken = rebuild(database.admin, *TABLES)
    [(name, size_bytes)] = database.admin.execute(
        """select indexrelid::regclass::text, pg_relation_size(indexrelid)
           from pg_index join pg_class on pg_class.oid = indexrelid join pg_am on pg_am.oid = relam
           where indrelid = 'voice.baselines'::regclass and amname = 'hnsw'"""
    ).fetchall()
    tell(f"   {size:>9,} voices indexed in {taken[name]:.0f} s, {size_bytes / 1e6:,.0f} MB")
    return Index(name, size_bytes, loaded, taken[name])


def _questions(voices: Vectors, mixture: Mixture, queries: int) -> Questions:
    own = mixture.random.integers(0, len(voices), queries)
    asked = near(voices[own], LIKE_ITSELF, mixture.random)
    parts = np.array_split(asked, 1 + queries // 50)
    return Questions(asked, np.concatenate([(voices @ part.T).argmax(axis=0) for part in parts]).tolist())


def _tried(database: Database, size: int, memory: str, breadth: int, questions: Questions) -> Tried:
    """Search with this breadth, and leave the setting as it was."""
    [(usual,)] = database.admin.execute("select search_breadth from care.settings").fetchall()
    database.admin.execute("update care.settings set search_breadth = %s", [breadth])
    found, spent = _search(database, questions.asked)
    pages = _pages(database, questions.asked[:50])
    database.admin.execute("update care.settings set search_breadth = %s", [usual])
    return Tried(size, memory, breadth, questions.recall_at_1(found), *p50_and_p95(spent), *pages)


def _pages(database: Database, asked: Vectors) -> tuple[float, float]:
    """Return how many pages a search touches, and how many of these are not in the shared buffers; medians."""
    touched, missed = [], []
    query = "explain (analyze, buffers, format json) select patient_id from match_voices(%s)"
    with database.as_role("service_role") as connection:
        for voice in asked:
            [([explained],)] = connection.execute(query, [Vector(voice).to_text()], prepare=False).fetchall()
            hit, read = (explained["Plan"][f"Shared {how} Blocks"] for how in ("Hit", "Read"))
            touched.append(hit + read)
            missed.append(read)
    return statistics.median(touched), statistics.median(missed)


def _measured(
    database: Database,
    voices: Vectors,
    questions: Questions,
    strangers: Vectors,
    index: Index,
    tell: Callable[[str], None],
) -> Found:
    size, queries = len(voices), len(questions.asked)
    found, spent = _search(database, questions.asked)
    _, in_vain = _search(database, strangers)
    tell(f"   {size:>9,} voices searched {queries} times")
    completions = min(100, size // 4)
    indexed = _complete(database, voices[:completions], 0)
    database.admin.execute(f"drop index {index.name}".encode())
    bare = _complete(database, voices[completions : 2 * completions], completions)
    tell(f"   {size:>9,} voices: {completions} baselines got a new version, with the index and without")
    return Found(
        size, questions.recall_at_1(found), *p50_and_p95(spent), p50_and_p95(in_vain)[1],
        index.load_seconds, index.build_seconds, index.bytes, statistics.median(indexed), statistics.median(bare),
    )  # fmt: skip


def _load(connection: Connection, voices: Vectors, mixture: Mixture) -> None:
    """Make a patient of each voice, called by its number, with a baseline of one sample."""
    ids = uuids(mixture.random, len(voices))

    def patients() -> Iterator[Mapping[str, Field]]:
        for part, own in _batches(ids):
            rows = len(own)
            names = np.char.zfill(np.arange(part, part + rows).astype("S9"), 9)
            yield {
                "id": own,
                "name": names.view(np.uint8).reshape(rows, -1),
                "voice_consent_at": times(np.full(rows, 1.5e9)),
                "created_at": times(np.full(rows, 1.5e9)),
            }

    def baselines() -> Iterator[Mapping[str, Field]]:
        for part, own in _batches(ids):
            rows = len(own)
            yield {
                "patient_id": own,
                "encoder": the_same(ENCODER, rows),
                "version": numbers(np.ones(rows), ">i4"),
                "embedding": vectors(voices[part : part + rows]),
                "sample_count": numbers(np.ones(rows), ">i4"),
            }

    copy_rows(connection, "public.patients", len(voices), patients())
    copy_rows(connection, "voice.baselines", len(voices), baselines())
    connection.execute(CONSENTS)


def _batches(ids: Field) -> Iterator[tuple[int, Field]]:
    for first in range(0, len(ids), BATCH):
        yield first, ids[first : first + BATCH]


def _search(database: Database, asked: Vectors) -> tuple[list[int | None], list[float]]:
    """Ask as the Data API does; return the number of whoever sounds most alike, and the milliseconds, of each."""
    found: list[int | None] = []
    spent: list[float] = []
    query = "select patient_id from match_voices(%s)"
    with database.as_role("service_role") as connection, progress("   searches", len(asked)) as advance:
        for voice in asked[:100]:
            connection.execute(query, [Vector(voice).to_text()], prepare=False)  # the first take longer
        for voice in asked:
            text = Vector(voice).to_text()
            begun = time.perf_counter()
            rows = connection.execute(query, [text], prepare=False).fetchall()
            spent.append(1_000 * (time.perf_counter() - begun))
            found.append(
                Records(database).one("select name::int from patients where id = %s", *rows[0]) if rows else None
            )
            advance(1)
    return found, spent


def _complete(database: Database, voices: Vectors, first: int) -> list[float]:
    """Complete a healthy call of each of these patients: it joins the baseline, in milliseconds."""
    records, spent = Records(database), []
    for number, voice in enumerate(voices, first):
        patient_id = records.one("select id from patients where name = %s", f"{number:09}")
        claim = records.call("open_check", records.call_log(patient_id), ENCODER, "bench", 60)
        sha256 = hashlib.sha256(str(number).encode()).digest()
        values = (claim["check_id"], claim["lease_token"], Vector(voice).to_text(), sha256, 10.0, 30.0, "{}")
        begun = time.perf_counter()
        ended = records.call("complete_check", *values)
        spent.append(1_000 * (time.perf_counter() - begun))
        assert ended["added_to_baseline"], ended
    return spent


def shown(found: Sequence[Found], tried: Sequence[Tried]) -> str:
    heads = ("voices", "recall@1", "p50 / p95, ms", "nobody, p95", "index", "built in", "completion, ms", "without it")
    lines = ["".join(f"{head:>16}" for head in heads)]
    for one in found:
        cells = (
            f"{one.voices:,}", f"{one.recall_at_1:.3f}", f"{one.p50_ms:.1f} / {one.p95_ms:.1f}",
            f"{one.nobody_p95_ms:.1f}", f"{one.index_bytes / 1e6:,.0f} MB", f"{one.build_seconds:.0f} s",
            f"{one.completion_ms:.1f}", f"{one.completion_without_ms:.1f}",
        )  # fmt: skip
        lines.append("".join(f"{cell:>16}" for cell in cells))
    heads_of_tried = ("voices", "shared buffers", "breadth", "recall@1", "p50 / p95, ms", "pages", "missed")
    lines += ["", "".join(f"{head:>16}" for head in heads_of_tried)]
    for row in tried:
        spent = f"{row.p50_ms:.1f} / {row.p95_ms:.1f}"
        pages = (f"{row.pages:,.0f}", f"{row.pages_missed:,.0f}")
        line = (f"{row.voices:,}", row.shared_buffers, f"{row.breadth}", f"{row.recall_at_1:.3f}", spent, *pages)
        lines.append("".join(f"{cell:>16}" for cell in line))
    return "\n".join(lines)


def failures(found: Sequence[Found], least_recall: float = 0.99, longest_ms: float = 10.0) -> list[str]:
    """Name each size at which too few are found, or too slowly."""
    missed = [
        f"{one.voices:,} voices: recall@1 is {one.recall_at_1:.3f}" for one in found if one.recall_at_1 < least_recall
    ]
    slow = [f"{one.voices:,} voices: p95 is {one.p95_ms:.1f} ms" for one in found if one.p95_ms > longest_ms]
    return missed + slow


def as_json(found: Sequence[Found], tried: Sequence[Tried]) -> dict[str, Any]:
    return {"sizes": [asdict(one) for one in found], "breadths": [asdict(one) for one in tried]}
