"""The documents are held to the code: their commands are parsed, their SQL is run, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from fixtures.databases import Database
from fixtures.inputs import ROOT
from fixtures.records import Records
from retrocare.cli.main import app

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Files whose messages, hints and comments name commands.
SOURCES = [
    path
    for folder, ending in (("service/retrocare", "py"), ("supabase/schemas", "sql"), ("supabase/functions", "ts"))
    for path in sorted((ROOT / folder).rglob(f"*.{ending}"))
    if "`retrocare " in path.read_text()
]
# What a hosted project has beside the tables, as far as the documents use it.
HOSTED = """
create schema vault;
create function vault.create_secret(new_secret text, new_name text) returns uuid language sql return gen_random_uuid();
"""


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def blocks(page: Path, language: str = "") -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)


def command_lines(page: Path) -> Iterator[str]:
    """Give the command lines of the blocks without a language, those that go on in the next line joined."""
    for block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ").removeprefix(".venv/bin/")


def parse(command: Any, name: str, words: list[str]) -> None:
    """Parse a command line without running it; raise what the command line would say."""
    context = command.make_context(name, list(words))
    if hasattr(command, "commands"):
        sub_name, sub, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(sub, str(sub_name), rest)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """Follow the words to a command of ours; return it with the words that are left."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@cache
def help_of(script: str) -> str:
    done = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_line_of_a_document_is_one_that_the_command_takes(page: Path) -> None:
    for line in command_lines(page):
        if not line.startswith("retrocare "):
            continue
        words = shlex.split(line.split(" > ")[0], comments=True)[1:]
        try:
            parse(typer.main.get_command(app), "retrocare", words)
        except Exception as error:  # noqa: BLE001  # whatever the parser raises
            pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize("page", PAGES + SOURCES, ids=names(PAGES + SOURCES))
def test_every_command_that_a_document_or_a_message_mentions_exists_with_its_options(page: Path) -> None:
    for mentioned in re.findall(r"`retrocare ([^`\n]*)`", page.read_text()):
        words = re.sub(r"\{\w+\}", " ", mentioned).split()  # less what an f-string puts in
        command, rest = find_command(words)
        if hasattr(command, "commands"):
            assert not rest or rest[0].startswith("-"), mentioned
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= known, mentioned


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_script_that_a_document_names_exists_with_its_options(page: Path) -> None:
    for script, words in re.findall(r"(scripts/\w+)((?: [\w.\-\"]+)*)", page.read_text()):
        assert (ROOT / script).is_file(), script
        for option in re.findall(r"--[a-z-]+", words):
            if option not in ("--help", "--test"):
                assert option in help_of(script), f"{script}{words}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_of_a_document_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_file_that_a_document_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:tests|tools|docs|service|supabase|scripts)/[\w./-]*\w)/?`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sql")], ids=lambda page: page.name)
def test_every_statement_of_a_document_runs(database: Database, page: Path) -> None:
    records = Records(database)
    patient = records.patient()
    database.admin.execute(HOSTED)
    for block in blocks(page, "sql"):
        statement = re.sub(r"'(THE ID|\.\.\.)'", f"'{patient}'", block)
        statement = re.sub(r"^create extension .*$", "", statement, flags=re.MULTILINE)  # which only a hosted one has
        if statement.strip():
            database.admin.execute(statement.encode())
