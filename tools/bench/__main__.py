"""Measure how fast it is: ``scripts/bench``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bench import budget, calls, completion, engine, features, noise, replay, scale, search, start, steps, views
from fixtures.databases import Server, short_folder
from fixtures.inputs import MODELS, ROOT, SPEECH
from fixtures.networks import FULL, write_ecapa
from retrocare.database.embedded import embedded
from retrocare.encoders.loading import load_encoder
from retrocare.encoders.weights import is_complete

LOADING = {  # for tables that are loaded at once, on a server that is thrown away
    "shared_buffers": "2GB",
    "maintenance_work_mem": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "autovacuum": "off",
    "fsync": "off",
    "synchronous_commit": "off",
}

Measured = tuple[str, list[str], Any]  # a table, what falls short, and everything as JSON


def tell(line: str) -> None:
    print(line, flush=True)


@contextmanager
def running(version: int, settings: dict[str, str], on_disk: bool) -> Iterator[Server]:
    with short_folder(in_memory=not on_disk) as folder, serving(folder, version, settings) as server:
        yield server


@contextmanager
def serving(folder: Path, version: int, settings: dict[str, str]) -> Iterator[Server]:
    with embedded(folder, version, settings) as started:
        server = Server(started.admin_url())
        try:
            yield server
        finally:
            server.close()


def weights() -> Path:
    """Write ECAPA of the real size once, with random weights."""
    folder = MODELS / "ecapa-of-the-real-size"
    return folder if is_complete(folder) else write_ecapa(folder, FULL, 128)


def measure_calls(chosen: argparse.Namespace) -> Measured:
    with short_folder() as folder:
        found = calls.bench_calls(weights(), folder, tell=tell)
    return calls.shown(found), calls.failures(found), calls.as_json(found)


def measure_engine(chosen: argparse.Namespace) -> Measured:
    found = engine.bench_engine(weights(), tell)
    return engine.shown(found), engine.failures(found), engine.as_json(found)


def measure_steps(chosen: argparse.Namespace) -> Measured:
    with (
        short_folder() as folder,
        running(chosen.postgres, {}, False) as server,
        server.clone(server.migrated_template) as database,
    ):
        found = steps.bench_steps(database, weights(), folder, tell=tell)
    return steps.shown(found), steps.failures(found), steps.as_json(found)


def measure_completion(chosen: argparse.Namespace) -> Measured:
    with running(chosen.postgres, {}, False) as server, server.clone(server.migrated_template) as database:
        found = completion.bench_completion(database, tell=tell)
    return completion.shown(found), completion.failures(found), completion.as_json(found)


def measure_replay(chosen: argparse.Namespace) -> Measured:
    with running(chosen.postgres, {}, False) as server, server.clone(server.migrated_template) as database:
        found = replay.bench_replay(database, 1_000_000 if chosen.full else 100_000, tell)
    return replay.shown(found), replay.failures(found), replay.as_json(found)


def measure_start(chosen: argparse.Namespace) -> Measured:
    with short_folder() as folder:
        found = start.bench_start(weights(), folder, tell=tell)
    return start.shown(found), start.failures(found), start.as_json(found)


def measure_budget(chosen: argparse.Namespace) -> Measured:
    if not SPEECH.is_dir():
        return f"left out: no recordings in {SPEECH} (set RETROCARE_SPEECH_DIR)", [], None
    encoder = load_encoder("ge2e", model_dir=MODELS, ecapa_dir=None).encoder
    points = budget.bench_budget(SPEECH, encoder, splits=4, tell=tell)
    mixtures = budget.bench_outliers(SPEECH, encoder)
    return (
        budget.shown(points, mixtures),
        budget.failures(points, encoder.window_seconds),
        budget.as_json(points, mixtures),
    )


def measure_noise(chosen: argparse.Namespace) -> Measured:
    if not SPEECH.is_dir():
        return f"left out: no recordings in {SPEECH} (set RETROCARE_SPEECH_DIR)", [], None
    encoder = load_encoder("ge2e", model_dir=MODELS, ecapa_dir=None).encoder
    found = noise.bench_noise(SPEECH, encoder, tell=tell)
    return noise.shown(found), noise.failures(found), noise.as_json(found)


def measure_features(chosen: argparse.Namespace) -> Measured:
    if not SPEECH.is_dir():
        return f"left out: no recordings in {SPEECH} (set RETROCARE_SPEECH_DIR)", [], None
    found = features.bench_features(SPEECH, tell)
    return features.shown(found), features.failures(found), features.as_json(found)


def measure_views(chosen: argparse.Namespace) -> Measured:
    with (
        running(chosen.postgres, {"shared_buffers": "1GB"}, False) as server,
        server.clone(server.migrated_template) as database,
    ):
        sizes = views.bench_views(database, chosen.patients, chosen.calls or [10, 100, 1_000], chosen.runs or 200, tell)
    return views.shown(sizes), views.failures(sizes), views.as_json(sizes)


def measure_search(chosen: argparse.Namespace) -> Measured:
    sizes = chosen.voices or ([1_000, 100_000, 1_000_000] if chosen.full else [1_000, 100_000])
    found, tried = [], []
    for size in sizes:
        with short_folder(in_memory=False) as folder:

            def serve(shared_buffers: str, folder: Path = folder) -> AbstractContextManager[Server]:
                return serving(folder, chosen.postgres, LOADING | {"shared_buffers": shared_buffers})

            breadths = search.BREADTHS if size == sizes[-1] else ()
            one, more = search.bench_search(serve, size, chosen.runs or 500, breadths, tell)
            found.append(one)
            tried += more
    return search.shown(found, tried), search.failures(found), search.as_json(found, tried)


def measure_scale(chosen: argparse.Namespace) -> Measured:
    with running(chosen.postgres, LOADING, True) as server:
        sizes = [10_000, 10_000_000 if chosen.full else 1_000_000]
        found = scale.bench_scale(server, chosen.calls or sizes, chosen.runs or 300, tell)
    return scale.shown(found), scale.failures(found), scale.as_json(found)


WHAT: dict[str, tuple[Callable[[argparse.Namespace], Measured], str, str]] = {
    "calls": (
        measure_calls,
        "what a call costs, by its length, against the pattern",
        "less CPU than the pattern by as much as promised, and memory that does not follow the length",
    ),
    "engine": (
        measure_engine,
        "a call's windows in torch and in OpenVINO",
        "the engine takes less time than torch, and a voiceprint stays where it is in every precision",
    ),
    "steps": (measure_steps, "where the time of a call goes", "no step but hearing takes more than a tenth"),
    "completion": (
        measure_completion,
        "one call of a function against the pattern's statements",
        f"{completion.LONGEST_MS:g} ms at most beside the server, "
        f"and from {completion.AWAY} {completion.LEAST_TIMES_FASTER:g} times faster than the pattern",
    ),
    "replay": (
        measure_replay,
        "stored calls judged once more, by another policy",
        f"{replay.LEAST_A_MINUTE:,} stored calls a minute",
    ),
    "start": (measure_start, "from start to ready", f"ready within {start.LONGEST_SECONDS:g} s"),
    "views": (
        measure_views,
        "what a caregiver reads",
        "every p95 is below 50 ms, and no large table is read as a whole",
    ),
    "search": (
        measure_search,
        "one voice among all",
        "the nearest voice is found 99 times of 100, and 19 of 20 answers take 10 ms at most",
    ),
    "scale": (
        measure_scale,
        "the same work beside few calls and beside many",
        f"nothing takes {scale.FLAT} times as long beside the most calls",
    ),
    "budget": (
        measure_budget,
        "how much speech tells people apart",
        "the budget tells people apart no worse than the whole recording",
    ),
    "noise": (
        measure_noise,
        "how much noise harms, and how much of that denoising undoes",
        "denoising tells people apart better in noise, and no worse without",
    ),
    "features": (
        measure_features,
        "how much pitch, pauses and the like vary in one person",
        f"measuring them takes {features.LONGEST_MS:g} ms of CPU at most",
    ),
}
SHORT = [name for name in WHAT if name not in ("scale", "budget", "noise", "features")]


def main() -> int:
    chosen = arguments()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(130))  # and so past every end that stops what was started
    everything: dict[str, Any] = {}
    short: list[str] = []
    for what in chosen.what or (list(WHAT) if chosen.full else SHORT):
        measure, describes, promise = WHAT[what]
        begun = time.monotonic()
        tell(f"== {what}: {describes}")
        table, wrong, found = measure(chosen)
        tell(table)
        tell("\n".join(wrong) if wrong else promise if found else "not measured")
        tell(f"   {time.monotonic() - begun:.0f} s")
        everything[what] = {"found": found, "falls_short": wrong}
        short += wrong
        chosen.json.write_text(json.dumps(everything, indent=2) + "\n")
    tell(f"Written as JSON: {chosen.json}")
    return int(bool(short))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "what", nargs="*", metavar="WHAT", help=f"any of {', '.join(WHAT)}; {', '.join(SHORT)} by default"
    )
    parser.add_argument("--full", action="store_true", help="all of them, at their largest sizes: over an hour, 29 GB")
    parser.add_argument("--json", type=Path, default=ROOT / "bench.json", metavar="FILE")
    parser.add_argument("--postgres", type=int, default=18, choices=[16, 18])
    parser.add_argument("--runs", type=int, metavar="N", help="of each reading, search or piece of work; 20 at least")
    parser.add_argument("--patients", type=int, default=1_000, metavar="N", help="views: 20 at least")
    parser.add_argument("--calls", type=int, nargs="+", metavar="N", help="views: per patient; scale: in all; rising")
    parser.add_argument("--voices", type=int, nargs="+", metavar="N", help="search: enrolled; rising")
    chosen = parser.parse_args()
    if unknown := [what for what in chosen.what if what not in WHAT]:
        parser.error(f"nothing is called {unknown[0]!r}: WHAT is any of {', '.join(WHAT)}")
    for sizes in (chosen.calls, chosen.voices):
        if sizes and (sizes != sorted(set(sizes)) or sizes[0] < 1):
            parser.error("sizes from 1, rising")
    if (chosen.runs is not None and chosen.runs < 20) or chosen.patients < 20:
        parser.error("at least 20 patients and 20 runs")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
