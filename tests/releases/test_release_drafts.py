"""The next release of the database: the migrations make what the schemas say, and a draft says what they lack."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from fixtures.databases import Database, Server
from fixtures.inputs import ROOT
from fixtures.next_release import NextRelease
from releases.baseline import BASELINE, SCHEMAS, baseline
from releases.catalog import catalog, differences
from releases.next_migration import CannotBeDrafted, catalog_of_migrations, catalog_of_schemas
from retrocare.database.migrations import migration_files


def test_migrations_and_schemas_make_one_catalog(empty: Callable[[], str], postgres_version: int) -> None:
    """Relations, functions, policies, grants, comments and the rows that are there from the start."""
    found = catalog_of_migrations(empty(), BASELINE.parent)
    assert len(found) > 2000
    assert differences(found, catalog_of_schemas(empty(), SCHEMAS)) == []


def test_until_the_first_release_the_baseline_is_what_the_schemas_say() -> None:
    if len(migration_files(BASELINE.parent)) > 1:
        pytest.skip("the baseline is released: migrations go on from it")
    assert BASELINE.read_text() == baseline(), "run scripts/release baseline"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("comment on table public.patients is 'other'", "differs: comment table public.patients"),
        (
            "comment on column public.call_logs.summary is 'new'",
            "too many: comment table column public.call_logs.summary",
        ),
        ("comment on function care.release() is null", "missing: comment function care.release()"),
        ("grant select (phone) on public.patients to anon", "too many: grant column public.patients.phone to anon"),
        ("grant usage on schema voice to anon", "too many: grant schema voice to anon"),
        ("grant execute on function care.release() to public", "too many: grant function care.release() to public"),
        (
            "revoke select on public.check_status from service_role",
            "differs: grant|missing: grant table public.check_status",
        ),
        ("drop policy caregivers_read_their_patients on public.patients", "missing: policy caregivers_read_their_pat"),
        ("alter table public.patients disable row level security", "differs: relation public.patients"),
        ("alter table public.patients alter column timezone drop not null", "differs: column public.patients.timezone"),
        ("alter view public.silent_patients set (security_invoker = false)", "differs: view public.silent_patients"),
        ("alter function care.release() volatile", r"differs: function care.release\(\)"),
        ("alter table public.patients disable trigger user", "differs: trigger"),
        ("alter type public.call_source add value 'video'", "differs: type public.call_source"),
        ("create index on public.patients (name)", "too many: index public.patients_name_idx"),
        ("alter publication supabase_realtime drop table public.patients", "missing: publication supabase_realtime"),
        ("delete from care.sickness_words where word = 'sick'", "missing: row care.sickness_words"),
    ],
)
def test_the_comparison_sees(database: Database, server: Server, statement: str, told: str) -> None:
    wanted = catalog(database.owner)
    database.owner.execute(statement.encode())
    lines = differences(catalog(database.owner), wanted)
    assert lines
    assert all(re.match("|".join(re.escape(part) if "\\" not in part else part for part in told.split("|")), line)
               for line in lines), lines  # fmt: skip


def test_a_draft_holds_whatever_the_schemas_changed(next_release: NextRelease) -> None:
    next_release.add("""
        alter table public.patients add column nickname text not null default 'none';
        comment on column public.patients.nickname is 'What friends say.';
        grant select (nickname) on public.patients to authenticated;
        create policy friends_are_seen on public.patients for select to authenticated using (nickname = 'friend');
        alter type public.call_source add value 'video' before 'upload';
        create table public.visits (
            id bigint generated always as identity, patient_id uuid not null, at timestamptz not null default now(),
            constraint visits_pkey primary key (id),
            constraint a_visit_is_of_a_patient foreign key (patient_id) references public.patients (id)
        );
        comment on table public.visits is 'Who came.';
        create index visits_patient_id on public.visits (patient_id);
        alter table public.visits enable row level security;
        grant select on public.visits to service_role;
        create view public.visitors with (security_invoker = true) as select patient_id from public.visits;
        create function voice.visits(patient_id uuid) returns setof public.visitors language sql stable
            set search_path = pg_catalog, pg_temp
            begin atomic select * from public.visitors where visitors.patient_id = visits.patient_id; end;
        revoke execute on function voice.visits from public;
        comment on function voice.visits is 'It''s who came.';
        create trigger visits_ring after insert on public.visits
            for each statement execute function care.on_new_work('wake');
        alter publication supabase_realtime add table public.visits (id, at);
        comment on view public.silent_patients is null;
        drop policy caregivers_read_their_patients_flags on public.health_flags;
    """)
    draft, left = next_release.draft(words="visits")
    assert left == []
    assert re.fullmatch(r"\d{14}_retrocare_1_1_0_visits\.sql", draft.name)
    assert "by hand:" not in draft.read_text()
    assert differences(
        catalog_of_migrations(next_release.empty(), next_release.migrations),
        catalog_of_schemas(next_release.empty(), next_release.schemas),
    ) == []  # fmt: skip


def test_what_depends_on_something_that_changes_its_shape_is_made_anew(next_release: NextRelease) -> None:
    """A view loses a column, on which a view and a function stand; a function gets an argument."""
    next_release.add("""
        create view public.a with (security_invoker = true) as select 1 as one, 2 as two;
        create view public.b with (security_invoker = true) as select one from public.a;
        grant select on public.b to authenticated;
        comment on view public.b is 'stays';
        create function voice.f(x integer) returns integer language sql immutable begin atomic select x; end;
        create function public.g() returns setof public.b language sql begin atomic
            select one + voice.f(0) from public.b; end;
        comment on function public.g is 'stays';
    """)
    next_release.draft()
    added = next_release.schemas / "99_added.sql"
    text = added.read_text().replace("1 as one, 2 as two", "2 as two, 1 as one")
    added.write_text(text.replace("voice.f(x integer)", "voice.f(x integer, y integer default 0)"))
    next_release.edit(("select '1.1.0', '1.0.0'", "select '1.2.0', '1.1.0'"))
    draft, left = next_release.draft("1.2.0")
    assert (left, "by hand:" in draft.read_text()) == ([], False)


def test_what_may_lose_data_is_left_to_be_written_by_hand(next_release: NextRelease) -> None:
    next_release.add("""
        alter table public.health_flags alter column flag type varchar(10);
        insert into care.sickness_words (word) values ('queasy');
    """)
    draft, left = next_release.draft()
    hints = [line for line in draft.read_text().splitlines() if line.startswith("-- by hand: ")]
    assert [line.split(" ")[3:5] for line in hints] == [
        ["column", "public.health_flags.flag"],
        ["row", "care.sickness_words"],
    ]
    assert len(left) == 2


@pytest.mark.parametrize(
    ("release", "words", "told"),
    [
        ("1.1", "", "no release"),
        ("1.1.0", "New!", "no release"),
        ("1.2.0", "", "write 1.2.0 into care.release()"),
    ],
)
def test_a_draft_that_makes_no_sense_is_refused(next_release: NextRelease, release: str, words: str, told: str) -> None:
    with pytest.raises(CannotBeDrafted, match=re.escape(told)):
        next_release.draft(release, words)
    assert len(list(next_release.migrations.glob("*.sql"))) == 1


def test_where_nothing_changed_there_is_nothing_to_draft(next_release: NextRelease) -> None:
    next_release.draft()
    with pytest.raises(CannotBeDrafted, match="nothing to draft"):
        next_release.draft(words="again")


def test_the_command_says_what_is_wrong_and_fails() -> None:
    command = [sys.executable, "-m", "releases", "draft", "0.0.1"]
    path = f"{ROOT / 'tools'}:{ROOT / 'service'}"
    done = subprocess.run(
        command,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, "write 0.0.1 into care.release()" in done.stderr) == (1, "", True)
    assert len(done.stderr.splitlines()) == 1
