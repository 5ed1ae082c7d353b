"""Where the data are kept, and what is installed with the package."""

from __future__ import annotations

import importlib.resources
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import bare_environment

WHERE = "from retrocare_voice.settings import read_settings; print(read_settings().data_dir)"


def data_dir(folder: Path, **values: str) -> Path:
    command = [sys.executable, "-c", WHERE]
    done = subprocess.run(
        command, cwd=folder, env=bare_environment(**values), capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


def test_the_data_folder_does_not_follow_the_working_directory(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    home = {"XDG_DATA_HOME": str(tmp_path / "home")}
    found = {data_dir(folder, **home) for folder in (here, there)}
    assert len(found) == 1
    expected = "/var/lib/retrocare" if os.geteuid() == 0 else f"{tmp_path}/home/retrocare"
    if sys.platform == "linux":
        assert found == {Path(expected)}
    assert data_dir(here, RETROCARE_DATA_DIR="elsewhere") == Path("elsewhere")


def test_a_data_folder_of_an_earlier_release_is_still_used(tmp_path: Path) -> None:
    (tmp_path / ".retrocare").mkdir()
    assert data_dir(tmp_path) == Path(".retrocare")


@pytest.mark.parametrize("name", ["py.typed", "embedded.sql"])
def test_what_the_package_promises_is_in_it(name: str) -> None:
    assert importlib.resources.files("retrocare_voice").joinpath(name).is_file()
