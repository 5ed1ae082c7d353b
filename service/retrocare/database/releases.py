"""Releases: that of the database, that of this service, and whether they work together.

The database is upgraded first, then the services. So a service meets a database that is as new as itself or newer, and
``care.release()`` says which services still work on it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from retrocare import __version__
from retrocare.database.migrations import migration_files
from retrocare.errors import Unavailable


class Release(NamedTuple):
    """The three numbers of a version; 1.0.0.dev0 and 1.0.0 have the same."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return ".".join(map(str, self))


def release_of(version: str) -> Release:
    """Read the release in a version or in the name of a migration. Raises: ValueError where there is none."""
    found = re.search(r"(?:^|_)(\d+)[._](\d+)[._](\d+)", version)
    if not found:
        raise ValueError(f"{version!r} names no release")
    return Release(*map(int, found.groups()))


def this_release() -> Release:
    """Return the release that this service is."""
    return release_of(__version__)


def needed_release() -> Release:
    """Return the release of the database that this service was written for: that of its newest migration."""
    return max(release_of(file.name) for file in migration_files())


def check_release(found: dict[str, Any]) -> None:
    """Refuse a database, given its row of care.release(), that this service does not work on. Raises: Unavailable."""
    database, oldest = release_of(found["version"]), release_of(found["oldest_service"])
    if database < needed_release():
        raise Unavailable(
            f"The database is RetroCare Voice {database}, this service needs {needed_release()}",
            "Run `retrocare migrate` with the owner's login, then start it again.",
            "database_outdated",
        )
    if this_release() < oldest:
        raise Unavailable(
            f"The database is RetroCare Voice {database}, on which services work from {oldest} on; this one is "
            f"{this_release()}",
            f"Update the service to {database}.",
            "service_outdated",
        )
