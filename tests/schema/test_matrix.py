"""The matrix: who may do what, with every table, view, function and recording; each cell is tried.

``matrix.txt`` is the table. To read is to see a row of the patient, to change is to have changed one, to execute is not
to have been refused for want of a right.
"""

from __future__ import annotations

import difflib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fixtures.databases import Connection
from fixtures.populated import ROLES, PopulatedPatient, populated_patient
from fixtures.records import Records

TABLE = Path(__file__).with_name("matrix.txt")
HEAD = """\
# Who may do what. Each cell was tried by test_matrix.py, which writes this file with RETROCARE_UPDATE_MATRIX=1.
#
#   A  anon
#   X  a stranger: signed in, and cares for somebody else
#   V  F  P  C  viewer, family, primary and clinician of the patient, signed in
#   S  service_role, which the edge functions use
#   R  retrocare_service, as which the Python service logs in
#   -  refused; or nothing of the patient is seen, or changed
#
# A line with columns is about these, the line without about all others.
"""
LETTERS = {"anon": "A", "stranger": "X", "viewer": "V", "family": "F", "primary": "P", "clinician": "C"} | {
    "service_role": "S",
    "retrocare_service": "R",
}
REFUSED = {"42501", "PT403", "PT404"}
IMPOSSIBLE = {"55000", "0A000", "428C9"}  # a view that cannot be changed, or a column of it


@dataclass
class Relation:
    """A table or view, and how its rows of one patient are found."""

    name: str
    columns: list[str]
    written: list[str]  # those that a statement may give a value
    where: str


@dataclass
class Tried:
    """The roles that could do it, by object, verb and column; functions have no columns."""

    cells: dict[tuple[str, str], dict[str, set[str]]] = field(default_factory=lambda: defaultdict(dict))

    def lines(self) -> Iterator[str]:
        for (name, verb), by_column in self.cells.items():
            groups: dict[str, list[str]] = defaultdict(list)
            for column, roles in by_column.items():
                groups["".join(LETTERS[role] if role in roles else "-" for role in LETTERS)].append(column)
            rest = max(groups, key=lambda letters: len(groups[letters]))
            for letters, columns in sorted(groups.items(), key=lambda group: group[0] != rest):
                of = "" if letters == rest else f" ({', '.join(columns)})"
                yield f"{letters}  {name}  {verb}{of}"


class Attempts:
    """Somebody who tries: everything in one transaction, and every attempt taken back."""

    def __init__(self, connection: Connection, role: str) -> None:
        self.connection, self.role = connection, role

    def code(self, statement: str, *values: object) -> tuple[str, int]:
        """Return the SQLSTATE, empty where there was no error, and how many rows there were."""
        self.connection.execute("savepoint attempt")
        try:
            found = self.connection.execute(statement.encode(), values)
            return "", found.rowcount
        except psycopg.Error as error:
            return error.sqlstate or "?", 0
        finally:
            self.connection.execute("rollback to savepoint attempt")

    def can(self, statement: str, *values: object) -> bool:
        """Tell whether a statement reached a row, or failed because of what is in it and not of who asks."""
        code, rows = self.code(statement, *values)
        assert not code or code in REFUSED | IMPOSSIBLE or code.startswith("23"), (self.role, statement, code)
        return rows > 0 if not code else code not in REFUSED | IMPOSSIBLE

    def reaches(self, statement: str, of_patient: str, patient_id: object) -> bool:
        """Tell whether it changes a row of the patient or, where that condition is refused, anybody's."""
        if self.code(f"{statement} {of_patient}", patient_id)[0] in REFUSED:
            return self.can(statement)
        return self.can(f"{statement} {of_patient}", patient_id)


def relations(records: Records) -> list[Relation]:
    found = records.rows(
        """select n.nspname || '.' || c.relname as name, n.nspname = 'storage' as is_storage,
               array_agg(quote_ident(a.attname) order by a.attnum) as columns,
               array_agg(quote_ident(a.attname) order by a.attnum)
                   filter (where a.attidentity = '' and a.attgenerated = '') as written
           from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
               join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           where (n.nspname in ('public', 'care', 'voice') or c.oid = 'storage.objects'::regclass)
               and c.relkind in ('r', 'v')
           group by 1, 2 order by 1"""
    )
    made = []
    for row in found:
        key = "id" if row["name"] == "public.patients" else "patient_id" if "patient_id" in row["columns"] else ""
        where = (
            "split_part(name, '/', 1) = %s::text" if row["is_storage"] else f"{key} = %s" if key else "%s is not null"
        )
        made.append(Relation(row["name"], row["columns"], row["written"], where))
    return made


def functions(records: Records) -> list[dict[str, Any]]:
    return records.rows(
        """select n.nspname || '.' || p.proname as name,
               coalesce(p.proargnames[:p.pronargs], '{}') as names,
               array(
                   select format('%%I.%%I', typnamespace::regnamespace, typname)
                   from unnest(p.proargtypes) with ordinality as a (t, i) join pg_type on pg_type.oid = t order by i
               ) as types,
               case when count(*) over (partition by n.nspname, p.proname) > 1
                   then '(' || pg_get_function_identity_arguments(p.oid) || ')' else '' end as arguments
           from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
           where n.nspname in ('public', 'care', 'voice') and p.prokind = 'f'
               and not exists (select from pg_depend where objid = p.oid and deptype = 'e')
           order by 1, 4"""
    )


def try_relation(who: Attempts, relation: Relation, patient_id: object) -> dict[str, set[str]]:
    """Return the columns that can be read and written; a whole row is inserted or deleted."""
    name, of_patient = relation.name, f"where {relation.where}"
    done: dict[str, set[str]] = {"select": set(), "update": set()}
    if who.can(f"select {', '.join(relation.columns)} from {name} {of_patient}", patient_id):
        done["select"] = set(relation.columns)
    elif who.code(f"select count(*) from {name}")[0] not in REFUSED:
        # The condition may be what is refused: then every row is looked at.
        for column in relation.columns:
            if who.can(f"select {column} from {name} {of_patient}", patient_id):
                done["select"].add(column)
    for column in relation.written:
        if who.reaches(f"update {name} set {column} = default", of_patient, patient_id):
            done["update"].add(column)
    key = relation.where.split(" ")[0]
    inserted = (
        who.can(f"insert into {name} (bucket_id, name) values ('voice-recordings', %s || '/x')", str(patient_id))
        if name == "storage.objects"
        else who.can(f"insert into {name} ({key}) values (%s)", patient_id)
        if key in relation.written
        else who.can(f"insert into {name} default values")
    )
    done["insert"] = set(relation.columns) if inserted else set()
    done["delete"] = set(relation.columns) if who.reaches(f"delete from {name}", of_patient, patient_id) else set()
    return done


def try_function(who: Attempts, function: dict[str, Any], populated: PopulatedPatient) -> bool:
    """Call it about the patient, with null for whatever else it asks for.

    The nulls come out of a subquery: PostgreSQL does not even call a strict function with a constant null.
    """
    given = [populated.arguments.get(name) for name in function["names"]]
    names = [f"a{number}" for number in range(len(given))]
    statement = f"select {function['name']}({', '.join(names)})"
    if given:
        typed = ", ".join(f"%s::{type_} as {name}" for name, type_ in zip(names, function["types"], strict=True))
        statement += f" from (select {typed} offset 0) as given"
    code, _ = who.code(statement, *given)
    assert code in REFUSED or not code.startswith("42"), (who.role, statement, code)
    return code not in REFUSED


def everybody_tries(records: Records, populated: PopulatedPatient, only: str = "") -> Tried:
    tried = Tried()
    stranger = records.caregiver(records.patient())
    found, called = relations(records), functions(records)
    with ExitStack() as opened:
        for role in LETTERS:
            sub = populated.caregivers.get(role) or (stranger if role == "stranger" else None)
            api_role = "authenticated" if sub else role
            connection = (
                records.service
                if role == "retrocare_service"
                else opened.enter_context(records.database.as_role(api_role, str(sub) if sub else None))
            )
            connection.execute("begin")
            connection.execute("set local statement_timeout = '10s'")
            who = Attempts(connection, role)
            for relation in found:
                if only and relation.name != only:
                    continue
                done = try_relation(who, relation, populated.patient_id)
                for verb in ("select", "insert", "update", "delete"):
                    columns = relation.columns if verb == "select" else relation.written if verb == "update" else [""]
                    for column in columns:
                        roles = tried.cells[relation.name, verb].setdefault(column, set())
                        if column in done[verb] or (not column and done[verb]):
                            roles.add(role)
            for function in called:
                if only and function["name"] != only:
                    continue
                roles = tried.cells[function["name"] + function["arguments"], "execute"].setdefault("", set())
                if try_function(who, function, populated):
                    roles.add(role)
            connection.execute("rollback")
    return tried


@pytest.fixture
def populated(records: Records) -> PopulatedPatient:
    return populated_patient(records)


def test_everybody_may_do_what_the_matrix_says_and_nothing_else(records: Records, populated: PopulatedPatient) -> None:
    lines = list(everybody_tries(records, populated).lines())
    if os.environ.get("RETROCARE_UPDATE_MATRIX"):
        TABLE.write_text(HEAD + "\n".join(["", *lines, ""]))
    listed = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    changed = [line for line in difflib.ndiff(listed, lines) if line[0] in "+-"]
    assert changed == [], "if each change is meant, write it into tests/schema/matrix.txt:\n" + "\n".join(changed)


def test_there_is_something_to_be_seen_in_every_table_and_view(records: Records, populated: PopulatedPatient) -> None:
    """An empty table would look as if it were closed."""
    empty = []
    with records.database.as_role("authenticated", str(populated.caregivers["primary"])) as primary:
        for relation in relations(records):
            statement = f"select 1 from {relation.name} where {relation.where} limit 1".encode()
            values: Sequence[object] = [populated.patient_id]
            reader = primary if relation.name == "public.caregiver_patients" else records.database.admin
            if reader.execute(statement, values).fetchone() is None:
                empty.append(relation.name)
    # A tombstone is of somebody who is here no more.
    assert empty == ["care.tombstones"], "populated.py makes no row in these"


@pytest.mark.parametrize(
    ("change", "name", "cell"),
    [
        (
            "alter table public.consents disable row level security",
            "public.consents",
            "-XVFPCS-  public.consents  select",
        ),
        (
            "create policy open on public.health_flags for select to authenticated using (true)",
            "public.health_flags",
            "-XVFPCS-  public.health_flags  select",
        ),
        (
            "grant select (recording_ref) on public.call_logs to authenticated",
            "public.call_logs",
            "--VFPC--  public.call_logs  select (recording_ref)",
        ),
        (
            "grant execute on function public.remove_caregiver to anon",
            "public.remove_caregiver",
            "----P---  public.remove_caregiver  execute",
        ),
        (
            "drop policy caregivers_play_their_patients_recordings on storage.objects",
            "storage.objects",
            "------S-  storage.objects  select",
        ),
    ],
    ids=["switch", "policy", "column", "function", "storage"],
)
def test_what_is_opened_or_closed_shows(
    records: Records, populated: PopulatedPatient, change: str, name: str, cell: str
) -> None:
    records.do(change)
    assert cell in everybody_tries(records, populated, name).lines()


def test_the_matrix_knows_every_role_of_a_caregiver(records: Records) -> None:
    roles = records.one("select enum_range(null::public.caregiver_role)::text[]")
    assert set(roles) == set(ROLES)
