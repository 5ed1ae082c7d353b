"""Measure how fast it is, on tables of the size that counts: ``scripts/bench``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time

from bench.views import as_json, bench_views, failures, shown
from databases import Server, short_folder
from retrocare_voice.embedded import embedded


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("what", choices=["views"], help="what a caregiver reads")
    parser.add_argument("--patients", type=int, default=1_000, metavar="N", help="1000 by default, at least 20")
    parser.add_argument(
        "--calls", type=int, nargs="+", default=[10, 100, 1_000], metavar="N", help="per patient, rising"
    )
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="reads of each view")
    parser.add_argument("--postgres", type=int, default=18, choices=[16, 18])
    parser.add_argument("--json", action="store_true", help="print JSON at the end")
    chosen = parser.parse_args()
    if chosen.patients < 20 or chosen.runs < 2 or chosen.calls != sorted(set(chosen.calls)) or chosen.calls[0] < 1:
        parser.error("at least 20 patients and 2 runs; calls from 1, rising")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(130))  # and so past every end that stops what was started
    begun = time.monotonic()
    with short_folder() as folder, embedded(folder, chosen.postgres, {"shared_buffers": "1GB"}) as running:
        server = Server(running.admin_url())
        with server.clone(server.migrated_template) as database:
            print(f"== views: {chosen.patients:,} patients, PostgreSQL {chosen.postgres}", flush=True)
            sizes = bench_views(
                database, chosen.patients, chosen.calls, chosen.runs, lambda line: print(line, flush=True)
            )
        server.close()
    print(shown(sizes))
    wrong = failures(sizes)
    print(
        "\n".join(wrong)
        or f"every p95 is below 50 ms, and no large table is read as a whole; {time.monotonic() - begun:.0f} s"
    )
    if chosen.json:
        print(json.dumps(as_json(sizes), indent=2))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
