"""Databases to try things on, each empty as hosted Supabase gives it, on a server of their own that ends with them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from retrocare.database.embedded import bootstrap, embedded

Empty = Callable[[], str]
"""Makes an empty database and gives the login of its owner."""

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextmanager
def scratch_databases() -> Iterator[Empty]:
    """Give what makes databases, as many as are asked for."""
    folder = Path(tempfile.mkdtemp(prefix="release-"))
    folder.chmod(0o755)  # where root lends PostgreSQL an account, it must be able to enter
    numbers = count(1)
    try:
        with embedded(folder, options=FAST) as server:

            def empty() -> str:
                name = f"scratch_{next(numbers)}"
                with psycopg.connect(server.admin_url("template1"), autocommit=True) as admin:
                    admin.execute(f"create database {name} template template0".encode())
                bootstrap(server.admin_url(name))
                return server.owner_url(name)

            yield empty
    finally:
        shutil.rmtree(folder, ignore_errors=True)
