"""``scripts/release``: see its help."""

from __future__ import annotations

import argparse
import sys

from releases.baseline import BASELINE, SCHEMAS, write_baseline
from releases.next_migration import CannotBeDrafted, write_draft
from releases.scratch import scratch_databases
from retrocare.database.migrations import migration_files
from retrocare.errors import RetrocareError

MIGRATIONS = BASELINE.parent
EPILOG = (
    "Exit status: 0 done, 1 something is left to be done by hand, 2 wrong usage. docs/upgrading.md tells the steps."
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/release", description="Releases of the database.", epilog=EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("baseline", help="make the baseline migration of supabase/schemas (until 1.0.0)")
    command.set_defaults(run=lambda given: make_baseline())
    command = commands.add_parser("draft", help="draft the next migration from what the schemas changed, and try it")
    command.add_argument("release", help="such as 1.1.0; care.release() in supabase/schemas must say the same")
    command.add_argument(
        "words", nargs="?", default="", help="to tell several migrations of a release apart: new_limits"
    )
    command.set_defaults(run=lambda given: draft(given.release, given.words))
    given = parser.parse_args()
    try:
        return int(given.run(given))
    except (CannotBeDrafted, RetrocareError) as error:
        print(f"scripts/release: {error}", file=sys.stderr)
        return 1


def make_baseline() -> int:
    if len(migration_files(MIGRATIONS)) > 1:
        raise CannotBeDrafted("The baseline is released, and stays as it is: `scripts/release draft` goes on from it.")
    print(f"{BASELINE.name}: {'written anew' if write_baseline() else 'is as the schemas say'}")
    return 0


def draft(release: str, words: str) -> int:
    with scratch_databases() as empty:
        written, left = write_draft(release, words, SCHEMAS, MIGRATIONS, empty)
    print(f"Written: {written}")
    if not left:
        print("Tried on an empty database: it makes what the schemas say. Read it before you commit it.")
        return 0
    print("Tried on an empty database. Write by hand what then still differs:", file=sys.stderr)
    for line in left:
        print(f"    {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
