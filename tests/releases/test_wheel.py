"""The wheel: whoever installs it has the migrations, and needs no checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fixtures.commands import bare_environment
from fixtures.databases import Database
from fixtures.inputs import MODELS, ROOT
from retrocare.database.migrations import migration_files
from retrocare.engine import INSTALL_NETWORKS

NEEDED = ("pyproject.toml", "README.md", "LICENSE", "service", "supabase/migrations")
# The wheel's package in place of the checkout's, which this environment is installed from.
COMMAND = """
import sys
wheel, checkout = sys.argv[1], sys.argv[2]
sys.path[:] = [wheel, *(path for path in sys.path if not path.startswith(checkout))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import retrocare
assert retrocare.__file__.startswith(wheel), retrocare.__file__
if sys.argv[3].startswith("without:"):
    sys.modules[sys.argv[3].removeprefix("without:")] = None  # as where the package was never installed
    del sys.argv[3]
from retrocare.cli.main import app
app(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of a copy, and give the folder into which it was installed."""
    copy, built, installed = (tmp_path_factory.mktemp(name) for name in ("copy", "built", "installed"))
    for name in NEEDED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(built)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=copy, check=True, timeout=120)
    [archive] = built.glob("*.whl")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(installed)
    shutil.rmtree(copy)
    return installed


def test_the_wheel_carries_the_migrations_of_the_checkout(wheel: Path) -> None:
    carried = migration_files(wheel / "retrocare" / "database" / "migration_files")
    assert {file.path.name: file.text for file in carried} == {
        path.name: path.read_text() for path in (ROOT / "supabase" / "migrations").glob("*.sql")
    }


def run(wheel: Path, *words: str, seconds: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMAND, str(wheel), str(ROOT / "service"), *words]
    variables = bare_environment() | environment
    return subprocess.run(
        command, cwd=wheel, env=variables, capture_output=True, text=True, timeout=seconds, check=False
    )


def test_an_installed_wheel_brings_an_empty_database_up_to_date(wheel: Path, empty_database: Database) -> None:
    done = run(wheel, "migrate", "--url", empty_database.owner_url)
    assert (done.returncode, done.stdout.split(" ")[0]) == (0, str(len(migration_files()))), done.stderr
    assert empty_database.owner.execute("select version from care.release()").fetchone() is not None


@pytest.mark.parametrize("package", ["resemblyzer", "silero_vad"])
def test_an_installed_wheel_says_in_one_line_how_to_get_the_trained_networks(
    wheel: Path, data_folder: Path, package: str
) -> None:
    done = run(wheel, f"without:{package}", "demo", RETROCARE_DATA_DIR=str(data_folder))
    assert done.returncode == 1
    assert done.stderr.count(INSTALL_NETWORKS) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_an_installed_wheel_plays_the_demo(wheel: Path, data_folder: Path) -> None:
    models = {"RETROCARE_MODEL_DIR": str(MODELS), "RETROCARE_DATA_DIR": str(data_folder)}
    done = run(wheel, "demo", "--json", seconds=200, **models)
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)["calls"]
    assert [call["outcome"] for call in calls] == ["enrolled"] * 3 + ["scored"] * 7 + ["not_assessable"] * 2
