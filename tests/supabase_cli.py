"""The Supabase CLI, from npm: without Docker, account or network."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

from databases import Database
from inputs import TESTS

PROGRAMS = TESTS / "functions" / "node_modules" / ".bin"


def supabase(database: Database, folder: Path, *words: str, owner: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command against a database, as its superuser or its owner."""
    program = PROGRAMS / "supabase"
    if not program.exists():
        pytest.fail(f"{program} is missing: scripts/setup --test installs it")
    login = conninfo_to_dict(database.owner_url if owner else database.admin_url)
    url = f"postgresql://{login['user']}@localhost/{database.name}?host={quote(str(login['host']), safe='')}"
    if "port" in login:
        url += f"&port={login['port']}"
    command = [str(program), *words, f"--remote={url}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done
