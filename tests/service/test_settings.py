"""Where the data are kept, and what is installed with the package."""

from __future__ import annotations

import importlib.resources
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.commands import bare_environment

NOBODY = 65534
WHERE = """
import os, sys
from retrocare import settings
os.seteuid(int(sys.argv[1]))
print(settings.default_data_dir())
"""
DATA_DIR = "from retrocare.settings import read_settings; print(read_settings().data_dir)"


def printed(folder: Path, *script: str, **values: str) -> Path:
    command = [sys.executable, "-c", *script]
    return Path(subprocess.check_output(command, cwd=folder, env=bare_environment(**values), text=True).strip())


@pytest.mark.parametrize("user", [0, NOBODY] if os.geteuid() == 0 else [os.geteuid()])
def test_the_data_folder_does_not_follow_the_working_directory(data_folder: Path, user: int) -> None:
    here, there = data_folder / "here", data_folder / "there"
    for folder in (here, there):
        folder.mkdir()
    home = {"XDG_DATA_HOME": str(data_folder / "home")}
    found = {printed(folder, WHERE, str(user), **home) for folder in (here, there)}
    assert len(found) == 1
    if sys.platform == "linux":
        assert found == {Path("/var/lib/retrocare") if user == 0 else data_folder / "home" / "retrocare"}


def test_a_data_folder_of_an_earlier_release_is_still_used(tmp_path: Path) -> None:
    (tmp_path / ".retrocare").mkdir()
    assert printed(tmp_path, DATA_DIR) == Path(".retrocare")
    assert printed(tmp_path, DATA_DIR, RETROCARE_DATA_DIR="elsewhere") == Path("elsewhere")


@pytest.mark.parametrize("name", ["py.typed", "database/supabase_like.sql"])
def test_what_the_package_promises_is_in_it(name: str) -> None:
    assert importlib.resources.files("retrocare").joinpath(name).is_file()
