"""The draft of the next migration: statements that make one database's catalog what another's is.

Each statement is tried on a scratch database that is as the committed migrations leave it, again and again until it
finds its place: so functions, views, policies and triggers come out in an order that works, and what stands in the way
of a change is dropped and made anew. Grants and comments follow from what is then still different. What may lose data,
or needs thought, becomes a comment that begins with "by hand".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg

from releases.catalog import Catalog, Thing, catalog

Steps = Callable[[Catalog, Catalog], Iterator[str]]
MOST_TIMES = 3  # a statement may be needed again where what it made had to make way
# How pg_identify_object() calls things, and how COMMENT does.
COMMENTED = (
    ("table column ", "column "),
    ("view column ", "column "),
    ("composite type column ", "column "),
    ("materialized view column ", "column "),
    ("table constraint ", "constraint "),
)
GRANTABLE = " with grant option"
CANNOT_BE_REPLACED = (psycopg.errors.InvalidFunctionDefinition, psycopg.errors.InvalidTableDefinition)

# What depends on a function, or on a view: itself, or by its row type.
DEPENDENTS = """
select distinct case
    when d.classid = 'pg_proc'::regclass then 'function ' || d.objid::regprocedure
    when d.classid = 'pg_rewrite'::regclass
        then (select 'view ' || ev_class::regclass from pg_rewrite where oid = d.objid)
    when d.classid = 'pg_policy'::regclass
        then (select format('policy %%I on %%s', polname, polrelid::regclass) from pg_policy where oid = d.objid)
    when d.classid = 'pg_trigger'::regclass
        then (select format('trigger %%I on %%s', tgname, tgrelid::regclass) from pg_trigger where oid = d.objid)
end
from pg_depend as d
where d.deptype = 'n' and (
    (d.refclassid = 'pg_proc'::regclass and d.refobjid = to_regprocedure(%(name)s))
    or (d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass(%(name)s))
    or (d.refclassid = 'pg_type'::regclass
        and d.refobjid = (select reltype from pg_class where oid = to_regclass(%(name)s)))
)
"""


@dataclass
class Draft:
    """A migration as it is being written, and the scratch database on which its statements are tried."""

    scratch: psycopg.Connection
    wanted: Catalog
    statements: list[str] = field(default_factory=list)

    def write(self) -> str:
        """Return the statements that make the scratch database what is wanted, as far as that can be known."""
        self.scratch.execute("set search_path = ''")
        self.advance(structure)
        self.advance(rights_and_words)
        hints = by_hand(catalog(self.scratch), self.wanted)
        return "\n\n".join([*self.statements, *hints]) + "\n"

    def advance(self, steps: Steps) -> None:
        """Try what is still to be done until nothing more succeeds; what changes nothing is not tried for ever."""
        while True:
            left = steps(catalog(self.scratch), self.wanted)
            todo = [statement for statement in left if self.statements.count(ended(statement)) < MOST_TIMES]
            succeeded = [statement for statement in todo if self.succeeds(statement)]
            if not succeeded and not self.clear_the_way(todo):
                return

    def succeeds(self, statement: str) -> bool:
        return self.error(statement) is None

    def error(self, statement: str) -> psycopg.Error | None:
        """Run a statement and keep it; return why it cannot be run, where it cannot."""
        try:
            with self.scratch.transaction():
                self.scratch.execute(statement.encode())
        except psycopg.Error as error:
            return error
        self.statements.append(ended(statement))
        return None

    def clear_the_way(self, todo: list[str]) -> bool:
        """Drop what keeps a statement from being run: the thing to be replaced, or what depends on it."""
        for statement in todo:
            try:
                with self.scratch.transaction():
                    self.scratch.execute(statement.encode())
            except CANNOT_BE_REPLACED:
                if match := re.match(r"create or replace (function|view) (\S+?)(?:\(| )", statement, re.IGNORECASE):
                    kind, name = match.groups()
                    full = self.signature(statement) if kind.lower() == "function" else name
                    if full and self.drop(kind.lower(), full):
                        return True
            except psycopg.errors.DependentObjectsStillExist:
                if (match := re.match(r"drop (function|view) (.*)", statement)) and self.drop(*match.groups()):
                    return True
            except psycopg.Error:
                continue
        return False

    def signature(self, statement: str) -> str | None:
        """Return which function a CREATE OR REPLACE would replace."""
        names = [
            t.name for t, text in self.wanted.items() if t.kind == "function" and text.strip() == statement.strip()
        ]
        return names[0] if names else None

    def drop(self, kind: str, name: str) -> bool:
        """Drop something, after all that depends on it."""
        for (dependent,) in self.scratch.execute(DEPENDENTS, {"name": name}).fetchall():
            if dependent is None or dependent == f"{kind} {name}" or not self.drop(*dependent.split(" ", 1)):
                return False
        return self.succeeds(f"drop {kind} {name}")


def structure(found: Catalog, wanted: Catalog) -> Iterator[str]:
    """Give the statements that make, replace or drop things without losing data."""
    for thing, text in sorted(wanted.items()):
        if found.get(thing) != text:
            yield from made(thing, found, wanted)
    for thing in sorted(found.keys() - wanted.keys()):
        yield from dropped(thing)


def made(thing: Thing, found: Catalog, wanted: Catalog) -> Iterator[str]:
    text, is_new = wanted[thing], thing not in found
    name, _, table = thing.name.partition(" on ")
    if thing.kind in ("policy", "trigger", "constraint", "publication", "index") and not is_new:
        yield from dropped(thing)
    match thing.kind:
        case "schema" if is_new:
            yield f"create schema {name}"
        case "relation" if is_new and text.startswith("table"):
            columns = (f"    {last(t.name)} {declared(d)}" for t, d in wanted.items() if is_column_of(t, name))
            yield f"create table {name} (\n" + ",\n".join(columns) + "\n)"
        case "relation" if "row level security" in text and "row level security" not in found.get(thing, ""):
            yield f"alter table {name} enable row level security"
        case "column" if is_new:
            relation = name.rpartition(".")[0]
            verb = "type" if Thing("type", relation) in wanted else "table"
            what = "attribute" if verb == "type" else "column"
            yield f"alter {verb} {relation} add {what} {last(name)} {declared(text)}"
        case "type" if is_new and text.startswith("enum"):
            yield f"create type {name} as enum ({text.removeprefix('enum ')})"
        case "type" if is_new and text == "composite":
            columns = (f"    {last(t.name)} {declared(d)}" for t, d in by_number(wanted, name))
            yield f"create type {name} as (\n" + ",\n".join(columns) + "\n)"
        case "type" if text.startswith("enum"):
            yield from added_values(name, found[thing], text)
        case "constraint":
            owner = "domain" if Thing("type", table) in wanted else "table"
            yield f"alter {owner} {table} add constraint {name} {text}"
        case "index":
            yield text
        case "function":
            yield text
        case "view":
            yield f"create or replace view {name} {text}"
        case "policy":
            yield f"create policy {name} on {table} {text}"
        case "trigger":
            yield text[:-2]
        case "publication":
            yield f"alter publication {name.replace(' ', ' add table ')} {text}"


def dropped(thing: Thing) -> Iterator[str]:
    name, _, table = thing.name.partition(" on ")
    match thing.kind:
        case "function" | "view" | "index" | "trigger" | "policy" | "type":
            yield f"drop {thing.kind} {thing.name}"
        case "constraint":
            yield f"alter table {table} drop constraint {name}"
        case "publication":
            yield f"alter publication {name.replace(' ', ' drop table ')}"


def added_values(name: str, found: str, wanted: str) -> Iterator[str]:
    """Give what adds values to an enum, each where it stands; values that are gone cannot be taken away."""
    have, shall = (re.findall(r"'(?:[^']|'')*'", text) for text in (found, wanted))
    for number, value in enumerate(shall):
        if value not in have:
            where = f"after {shall[number - 1]}" if number else f"before {have[0]}"
            yield f"alter type {name} add value {value} {where}"


def rights_and_words(found: Catalog, wanted: Catalog) -> Iterator[str]:
    """Give the grants and comments that are missing, and take back those that are too many."""
    for thing in sorted(found.keys() | wanted.keys()):
        had, shall = found.get(thing), wanted.get(thing)
        if had == shall:
            continue
        if thing.kind == "grant":
            what, _, role = thing.name.rpartition(" to ")
            if had:
                yield f"revoke {rights(had.removesuffix(GRANTABLE), what)} from {role}"
            if shall:
                may_grant = GRANTABLE * shall.endswith(GRANTABLE)
                yield f"grant {rights(shall.removesuffix(GRANTABLE), what)} to {role}{may_grant}"
        if thing.kind == "comment":
            of = thing.name
            for identified, commented in COMMENTED:
                of = re.sub(f"^{identified}", commented, of)
            yield f"comment on {of} is {literal(shall)}"


def rights(privileges: str, what: str) -> str:
    kind, _, name = what.partition(" ")
    if kind == "column":
        column = last(name)
        privileges = ", ".join(f"{privilege} ({column})" for privilege in privileges.split(", "))
        return f"{privileges} on {name.rpartition('.')[0]}"
    return f"{privileges} on {what}"


def by_hand(found: Catalog, wanted: Catalog) -> Iterator[str]:
    """Say what is left to be written by hand, as comments."""
    for thing in sorted(found.keys() | wanted.keys()):
        had, shall = found.get(thing), wanted.get(thing)
        if had != shall:
            told = (
                f"is {had!r}, shall be {shall!r}" if had and shall else "is missing" if had is None else "is too many"
            )
            yield f"-- by hand: {thing} {told}".replace("\n", "\n-- ")


def ended(statement: str) -> str:
    return statement.rstrip().rstrip(";") + ";"


def declared(definition: str) -> str:
    return definition.partition(" --")[0]


def last(name: str) -> str:
    return re.split(r"\.(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", name)[-1]


def is_column_of(thing: Thing, relation: str) -> bool:
    return thing.kind == "column" and thing.name.startswith(f"{relation}.")


def by_number(wanted: Catalog, name: str) -> list[tuple[Thing, str]]:
    """Give the attributes of a composite type in their order, which matters."""
    attributes = [(t, d) for t, d in wanted.items() if is_column_of(t, name)]
    return sorted(attributes, key=lambda attribute: int(attribute[1].rpartition(" ")[2]))


def literal(text: str | None) -> str:
    return "null" if text is None else "'" + text.replace("'", "''") + "'"
