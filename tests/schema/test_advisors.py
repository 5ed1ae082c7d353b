"""What Supabase's own tools say of a database to which only the migrations were applied: advisors, and types."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fixtures.databases import Database
from fixtures.inputs import ROOT
from fixtures.supabase_cli import PROGRAMS, supabase

# Arguments that have no default and may be null all the same: what is null is unset.
UNSET_BY_NULL = {
    "change_caregiver": {"phone", "webhook_url", "user_id", "patient_known_as"},
    "set_my_preferences": {"patient_known_as", "language", "timezone", "quiet_from", "quiet_until"},
}

TYPES = ROOT / "supabase" / "database.types.ts"


def findings(database: Database, folder: Path) -> list[dict[str, Any]]:
    told = supabase(database, folder, "db", "advisors")
    start = told.stdout.find("[")
    if start < 0:
        assert "No issues found" in told.stdout + told.stderr
        return []
    found: list[dict[str, Any]] = json.JSONDecoder().raw_decode(told.stdout[start:])[0]
    return found


def test_the_advisors_find_what_is_wrong(database: Database, tmp_path: Path) -> None:
    database.owner.execute("create table public.naked (id integer)")
    database.owner.execute("grant select on public.naked to anon")
    found = {(finding["level"], finding["metadata"]["name"]) for finding in findings(database, tmp_path)}
    assert ("ERROR", "naked") in found


def test_the_advisors_find_nothing_that_is_wrong_here(database: Database, tmp_path: Path) -> None:
    found = [
        f"{finding['level']} {finding['name']}: {finding['detail']}"
        for finding in findings(database, tmp_path)
        if finding["level"] in ("WARN", "ERROR")
    ]
    assert found == []


def nullable_arguments(database: Database) -> dict[str, set[str]]:
    """Name the arguments that may be null, by function: those whose default is null, and UNSET_BY_NULL."""
    rows = database.owner.execute(
        """select proname, pg_get_function_arguments(oid) from pg_proc
            where pronamespace = 'public'::regnamespace and prokind = 'f'"""
    ).fetchall()
    found = {name: set(re.findall(r"(\w+) [^,]*? DEFAULT NULL\b", arguments)) for name, arguments in rows}
    for name, arguments in UNSET_BY_NULL.items():
        found[name] |= arguments
    return found


def with_nullable_arguments(types: str, nullable: dict[str, set[str]]) -> str:
    """Say of these arguments that they may be null: the CLI takes each for one that may not."""

    def marked(function: re.Match[str]) -> str:
        names = "|".join(sorted(nullable.get(function["name"], ())))
        if not names:
            return function[0]
        return re.sub(rf'("(?:{names})"\??: [^,;}}]*?)(\s*[,;}}])', r"\1 | null\2", function[0])

    return re.sub(r'"(?P<name>\w+)":\s*\{\s*Args: \{[^}]*\}', marked, types)


def test_the_types_are_those_of_the_migrations(database: Database, tmp_path: Path) -> None:
    """Made anew by: the command in docs/dashboard.md."""
    made = supabase(database, tmp_path, "gen", "types", "--schema", "public").stdout
    written = subprocess.run(
        [str(PROGRAMS / "deno"), "fmt", "--ext", "ts", "--line-width", "120", "-"],
        input=with_nullable_arguments(made, nullable_arguments(database)), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    kept = TYPES.read_text() if TYPES.exists() else ""
    if kept != written:
        fresh = tmp_path / TYPES.name
        fresh.write_text(written)
        lines = list(difflib.unified_diff(kept.splitlines(), written.splitlines(), "kept", "made", lineterm=""))
        pytest.fail(f"copy {fresh} to {TYPES.relative_to(ROOT)}:\n" + "\n".join(lines[:40]))
