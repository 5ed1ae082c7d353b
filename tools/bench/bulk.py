"""Rows by the million: made with NumPy, a batch at a time, and loaded by COPY in PostgreSQL's binary format."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fixtures.databases import Connection

Field = npt.NDArray[np.uint8]  # (rows, width): one column, in bytes as PostgreSQL sends them
Vectors = npt.NDArray[np.float32]  # (rows, dimension), of unit length
Ids = npt.NDArray[np.uint8]  # (rows, 16): uuids

EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds of Unix time
HEAD, END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_HEXADECIMAL = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)

CONSENTS = b"""insert into public.consents (patient_id, given_at, evidence)
    select id, voice_consent_at, 'loaded' from public.patients"""


def numbers(values: npt.ArrayLike, kind: str) -> Field:
    """Give numbers as PostgreSQL sends them: kind is NumPy's, such as ">i8" or ">f8"."""
    made = np.ascontiguousarray(values, dtype=kind)
    return made.view(np.uint8).reshape(len(made), -1)


def times(unix_seconds: npt.NDArray[np.float64]) -> Field:
    return numbers(np.rint(unix_seconds * 1e6).astype(np.int64) - EPOCH, ">i8")


def the_same(value: str | bytes, rows: int) -> Field:
    """Give every row one value: text, an enum's word, or bytes."""
    made = np.frombuffer(value.encode() if isinstance(value, str) else value, np.uint8)
    return np.broadcast_to(made, (rows, len(made)))


def documents(value: Mapping[str, Any], rows: int) -> Field:
    """Give every row one jsonb."""
    return the_same(b"\x01" + json.dumps(value).encode(), rows)


def joined(*parts: Field) -> Field:
    """Give text that is put together row by row."""
    return np.concatenate(parts, axis=1)


def uuids(random: np.random.Generator, rows: int, at: npt.NDArray[np.float64] | None = None) -> Ids:
    """Give random uuids or, where these Unix times are given, such as ``care.uuid_v7`` makes."""
    made = random.integers(0, 256, (rows, 16), np.uint8)
    if at is not None:
        made[:, :6] = numbers(at * 1_000, ">i8")[:, 2:]
    made[:, 6] = made[:, 6] & 0x0F | (0x40 if at is None else 0x70)
    made[:, 8] = made[:, 8] & 0x3F | 0x80
    return made


def written(ids: Ids) -> Field:
    """Give uuids as text, without hyphens."""
    return _HEXADECIMAL[ids].reshape(len(ids), 32)


def vectors(values: Vectors) -> Field:
    """Give vectors as pgvector sends them: the dimension, two bytes unused, the components."""
    head = numbers(np.full(len(values), values.shape[1] << 16), ">i4")
    return joined(head, numbers(values, ">f4"))


class Mixture:
    """Voices as a seeded mixture of Gaussians on the sphere: people of one component are alike, at a cosine of 0.4."""

    def __init__(self, dimension: int, seed: int = 1, components: int = 64, alike: float = 0.4) -> None:
        self.random = np.random.default_rng(seed)
        self.alike = alike
        self.centres = unit(self.random.standard_normal((components, dimension), np.float32))

    def voices(self, count: int) -> Vectors:
        own = self.centres[self.random.integers(0, len(self.centres), count)]
        return near(own, self.alike**0.5, self.random)


def near(voices: Vectors, similarity: float, random: np.random.Generator) -> Vectors:
    """Give each voice another one at about this cosine: it plus noise, as of another call."""
    noise = random.standard_normal(voices.shape, np.float32)
    noise *= np.float32((1 / similarity**2 - 1) ** 0.5 / voices.shape[1] ** 0.5)
    noise += voices
    return unit(noise)


def unit(values: Vectors) -> Vectors:
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


def packed(columns: Mapping[str, Field]) -> bytes:
    """Put the columns of a batch together as the rows of a binary COPY."""
    fields: list[tuple[str, str]] = [("count", ">i2")]
    for name, column in columns.items():
        fields += [(f"{name} length", ">i4"), (name, f"V{column.shape[1]}")]
    made = np.zeros(len(next(iter(columns.values()))), np.dtype(fields))
    made["count"] = len(columns)
    for name, column in columns.items():
        made[f"{name} length"] = column.shape[1]
        made[name] = np.ascontiguousarray(column).view(f"V{column.shape[1]}")[:, 0]
    return made.tobytes()


def copy_rows(connection: Connection, table: str, rows: int, batches: Iterator[Mapping[str, Field]]) -> None:
    """Load a table that was truncated in this transaction; the next batch is made while one is on its way."""
    first = next(batches)
    columns = ", ".join(f'"{name}"' for name in first)
    statement = f"copy {table} ({columns}) from stdin (format binary, freeze)"
    with (
        progress(f"   {table}", rows) as advance,
        ThreadPoolExecutor(1) as maker,
        connection.cursor().copy(statement.encode()) as copy,
    ):
        copy.write(HEAD)
        batch: Mapping[str, Field] | None = first
        while batch is not None:
            coming = maker.submit(next, batches, None)
            copy.write(packed(batch))
            advance(len(next(iter(batch.values()))))
            batch = coming.result()
        copy.write(END)


@contextmanager
def progress(name: str, whole: float) -> Iterator[Any]:
    """Show a bar on a terminal; give what moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(name, total=whole)
        yield lambda done: shown.advance(task, done)


@contextmanager
def without_rules(connection: Connection, *tables: str) -> Iterator[None]:
    """Empty the tables and let them be loaded in one transaction: no trigger, no foreign key, no index is kept.

    What they would do is written here at once. The indexes are built anew by ``rebuild``.
    """
    with connection.transaction():
        connection.execute("set local session_replication_role = replica")
        connection.execute(f"truncate {', '.join(tables)} cascade".encode())
        # As CREATE INDEX CONCURRENTLY leaves them when it fails: REINDEX makes them whole.
        connection.execute(
            "update pg_index set indisready = false, indisvalid = false where indrelid = any (%s::text[]::regclass[])",
            [list(tables)],
        )
        yield


def rebuild(connection: Connection, *tables: str) -> dict[str, float]:
    """Build the indexes of the tables; return the seconds that each took."""
    found = connection.execute(
        "select indexrelid::regclass::text from pg_index where indrelid = any (%s::text[]::regclass[])", [list(tables)]
    ).fetchall()
    taken: dict[str, float] = {}
    with progress("   indexes", len(found)) as advance:
        for (name,) in found:
            begun = time.monotonic()
            connection.execute(f"reindex index {name}".encode())
            taken[name] = time.monotonic() - begun
            advance(1)
    for table in tables:
        connection.execute(f"analyze {table}".encode())
    return taken
