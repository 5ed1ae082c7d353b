"""The next release of the database, made up by a test: a copy of the schemas and migrations to be changed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from releases.baseline import BASELINE, SCHEMAS
from releases.next_migration import write_draft


@dataclass
class NextRelease:
    """A copy of the schemas and migrations, in which the next release is made up."""

    schemas: Path
    migrations: Path
    empty: Callable[[], str]

    def edit(self, *changes: tuple[str, str]) -> None:
        """Put new text in place of old, each in the one file that holds it once."""
        for old, new in changes:
            [file] = [file for file in self.schemas.glob("*.sql") if old in file.read_text()]
            text = file.read_text()
            assert text.count(old) == 1, f"{file.name} holds {text.count(old)} times {old!r}"
            file.write_text(text.replace(old, new))

    def replace(self, pattern: str, replacement: str) -> None:
        """Replace what a pattern finds in exactly one place of all files."""
        done = 0
        for file in self.schemas.glob("*.sql"):
            text, count = re.subn(pattern, replacement, file.read_text(), flags=re.DOTALL)
            file.write_text(text)
            done += count
        assert done == 1, f"{pattern} was found {done} times"

    def add(self, text: str) -> None:
        (self.schemas / "99_added.sql").write_text(text)

    def call_it(self, release: str) -> None:
        self.edit(("select '1.0.0', '1.0.0'", f"select '{release}', '1.0.0'"))

    def draft(self, release: str = "1.1.0", words: str = "") -> tuple[Path, list[str]]:
        return write_draft(release, words, self.schemas, self.migrations, self.empty)


def copied(folder: Path, empty: Callable[[], str], release: str = "1.1.0") -> NextRelease:
    """Copy schemas and migrations into a folder, and call the schemas the next release."""
    for original in (SCHEMAS, BASELINE.parent):
        shutil.copytree(original, folder / original.name)
    made = NextRelease(folder / SCHEMAS.name, folder / BASELINE.parent.name, empty)
    made.call_it(release)
    return made
