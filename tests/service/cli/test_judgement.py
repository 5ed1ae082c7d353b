"""The commands ``retrocare calibrate`` and ``retrocare evaluate``, on a database of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fixtures.commands import Run, in_process
from fixtures.databases import Server
from fixtures.hostile import written


@pytest.fixture(scope="module")
def retrocare(server: Server) -> Iterator[Run]:
    with server.clone(server.migrated_template) as database:
        yield in_process(DATABASE_URL=database.service_url)


def test_evaluate_counts_who_is_flagged_in_real_speech(retrocare: Run, speech_dir: Path, tmp_path: Path) -> None:
    folder, noise, page = tmp_path / "people", tmp_path / "noise", tmp_path / "page.html"
    for person in ("1688", "1998", "2033"):
        (folder / person).mkdir(parents=True)
        for file in sorted((speech_dir / "librispeech" / person).glob("*.flac"), key=lambda f: -f.stat().st_size)[:5]:
            shutil.copy(file, folder / person)
    (folder / "1688" / "broken.wav").write_bytes(b"RIFF")
    (folder / "1998" / "notes.txt").write_text("not a recording")
    (folder / "short").mkdir()
    (folder / "short" / "beep.wav").write_bytes(written(0.1 * np.sin(np.arange(8_000)), 8_000))
    noise.mkdir()
    shutil.copy(speech_dir / "noise" / "noise4.flac", noise)
    done = retrocare("evaluate", str(folder), "--noise", str(noise), "--splits", "4", "--report", str(page), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["people"] == 3
    assert found["left_out"] == {"short": 0}
    assert found["not_assessable"] == {"undecodable": 1, "no_speech": 1}
    assert [row["snr_db"] for row in found["by_snr"]] == [None, 20, 10]
    as_recorded = found["by_snr"][0]
    assert as_recorded["own_calls"] == 3 * 4 * 2
    assert as_recorded["other_calls"] == 3 * 4 * 10
    assert as_recorded["false_alert_rate"] < 0.1
    assert as_recorded["flagged_rate"] > 0.5
    assert "prefers-color-scheme" in page.read_text()


def test_too_few_people_are_refused_with_what_is_missing(retrocare: Run, tmp_path: Path) -> None:
    (tmp_path / "people" / "Ana").mkdir(parents=True)
    (tmp_path / "people" / "Ana" / "empty.wav").write_bytes(b"")
    done = retrocare("evaluate", str(tmp_path / "people"))
    assert done.returncode == 1
    assert "0 people have 4 or more recordings that can be judged (too_few_people)" in done.stderr
    assert "Not judged: 1 undecodable" in done.stderr
    done = retrocare("calibrate", str(tmp_path / "missing"))
    assert done.returncode == 1
    assert "(no_folder)" in done.stderr


def test_the_stored_history_says_what_is_missing(retrocare: Run) -> None:
    done = retrocare("evaluate", "--history", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["patients"] == 0
    done = retrocare("calibrate", "--archive")
    assert done.returncode == 1
    assert "40 more patients with 20 healthy calls" in done.stderr


@pytest.mark.parametrize("words", [("evaluate",), ("calibrate",), ("evaluate", "somewhere", "--history")])
def test_what_is_to_be_measured_is_named_once(retrocare: Run, words: tuple[str, ...]) -> None:
    assert retrocare(*words).returncode == 2
