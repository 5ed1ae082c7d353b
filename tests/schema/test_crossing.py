"""Two families in one database: whatever one of them tries, it sees nothing of the other and changes nothing.

Each attempt is really made, as PostgREST logs in. It comes to nothing if it is refused or shows nothing: no marker of
the other family in its rows, errors and notices, and no row of that family, no policy, trigger or grant changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from fixtures.databases import Connection, Database, Server
from fixtures.records import Records

NOW = datetime.now(UTC)
PERSON = "zebra"  # a word in everything that is written about patient A
SECRET = "okapi"  # a word in what not even a viewer of A's, nor the edge functions, may read
CONTACT = "+493077"  # how the telephone numbers of A's caregivers begin
VOICES = [(0.3141592, 0.8271828, 0.4659661), (0.3333771, 0.8112233, 0.4803117), (0.2999113, 0.8301177, 0.4699557)]
CHANGED = (0.8123457, -0.4321987, 0.3917261)
NEVER_TRIED = {"42601", "42703", "42883", "42P02", "3F000"}  # the attempt is badly written: it proves nothing
DIVISION_BY_ZERO = "22012"  # in these attempts an answer to a question about a row


@dataclass
class House:
    """A database with two families, and how one finds out that the line was crossed."""

    records: Records
    names: dict[str, Any] = field(default_factory=dict)
    vectors: list[str] = field(default_factory=list)
    before: str = ""

    @property
    def database(self) -> Database:
        return self.records.database

    def fill(self, statement: str) -> str:
        for name, value in self.names.items():
            statement = statement.replace("{" + name + "}", str(value))
        return statement

    def found(self, shown: str, words: tuple[str, ...]) -> list[str]:
        """Name what of A is in this text: one of these words, or a component of a vector."""
        return [word for word in words if word in shown] + [
            component for component in self.vectors if component in shown
        ]

    def state(self) -> str:
        """Digest every row about A, and who may do what."""
        admin = self.database.admin
        tables = admin.execute(
            """select oid::regclass::text from pg_class where relkind in ('r', 'p') and relnamespace in (
                   'public'::regnamespace, 'care'::regnamespace,
                   'voice'::regnamespace, 'storage'::regnamespace, 'auth'::regnamespace)"""
        ).fetchall()
        of_a = " union all ".join(
            f"select '{table}' || coalesce(md5(string_agg(t::text, ',' order by t::text)), '') from {table} as t "
            f"where t::text like '%{self.names['a']}%' or t::text like '%{PERSON}%' or t::text like '%{SECRET}%'"
            for (table,) in sorted(tables)
        )
        rules = """
            union all select md5(string_agg(p::text, ',' order by p.oid)) from pg_policy as p
            union all select md5(string_agg(t::text, ',' order by t.oid)) from pg_trigger as t
            union all select md5(string_agg(c.relname || c.relrowsecurity || coalesce(c.relacl::text, ''), ','
                order by c.oid)) from pg_class as c
                where c.relnamespace::regnamespace::text in ('public', 'care', 'voice', 'storage', 'auth')
            union all select md5(string_agg(p.proname || p.prosrc || coalesce(p.proacl::text, ''), ',' order by p.oid))
                from pg_proc as p
                where p.pronamespace::regnamespace::text in ('public', 'care', 'voice', 'extensions', 'auth')
            union all select md5(string_agg(r.rolname || r.rolsuper || r.rolbypassrls, ',' order by r.rolname))
                from pg_roles as r"""
        return str(admin.execute((of_a + rules).encode()).fetchall())

    def changed(self) -> bool:
        """Say whether anything has changed since this was asked last."""
        before, self.before = self.before, self.state()
        return before != self.before

    def try_to(self, steps: str, connection: Connection) -> tuple[str, list[str]]:
        """Take one step after the other; give all that was shown, and the codes of the refusals."""
        shown: list[str] = []
        codes: list[str] = []
        connection.add_notice_handler(lambda notice: shown.append(notice_text(notice)))
        for step in self.fill(steps).split(";;"):
            try:
                shown += answers(connection, step.strip())
            except psycopg.Error as error:
                if error.sqlstate is None:
                    raise
                codes.append(error.sqlstate)
                shown.append(notice_text(error.diag))
        return "\n".join(shown), codes


def notice_text(diagnostic: psycopg.errors.Diagnostic) -> str:
    """Write down all of an error or notice; the query is the asker's own."""
    parts = (diagnostic.message_primary, diagnostic.message_detail, diagnostic.message_hint, diagnostic.context)
    return "\n".join(part for part in parts if part)


def answers(connection: Connection, step: str) -> list[str]:
    with connection.cursor() as cursor:
        if re.match(r"copy .* to stdout", step, re.DOTALL):
            with cursor.copy(step.encode()) as copy:
                return [bytes(row).decode() for row in copy]
        cursor.execute(step.encode(), prepare=False)
        found: list[str] = []
        while True:
            if cursor.description:
                found += [str(row) for row in cursor.fetchall()]
            if not cursor.nextset():
                return found


def family(records: Records, word: str, secret: str, phones: str, voices: list[Any], changed: Any) -> dict[str, Any]:
    """Make a patient with everything, and four who care."""
    patient_id = records.patient()
    records.do(
        "update public.patients set name = %s, phone = %s where id = %s",
        f"name-{word}",
        f"+49307{len(word)}99",
        patient_id,
    )
    named: dict[str, Any] = {"patient": patient_id}
    for number, role in enumerate(("primary", "family", "clinician", "viewer")):
        named[role] = records.caregiver(
            patient_id, role, name=f"{role}-{word}", phone=f"{phones}000{number}",
            webhook_url=f"https://hook.example.org/{secret}" if role == "primary" else None,
            patient_known_as=f"known-{word}-{role}",
        )  # fmt: skip
    records.enrol(patient_id, *voices)
    records.judge(patient_id, voices[0], NOW - timedelta(days=2))
    claim = records.open(records.call_log(patient_id, NOW - timedelta(hours=1)))
    records.complete(claim, changed, at=NOW)
    records.report(f"call-{word}", patient_id=patient_id, started_at=NOW, ended_at=NOW, at=NOW)
    [held] = records.claim_recordings(NOW)
    records.rpc(
        "store_recording", call_log_id=held["call_log_id"], lease_token=held["lease_token"],
        recording_ref=f"storage:voice-recordings/{held['object_path']}.wav", recording_channel="customer",
    )  # fmt: skip
    named["played"] = held["call_log_id"]
    records.do("update public.call_logs set summary = %s where patient_id = %s", f"summary-{word}", patient_id)
    records.do(
        "update public.call_logs set recording_source_url = %s where id = %s",
        f"https://calls.example.org/{secret}", named["played"],
    )  # fmt: skip
    records.do("update public.voice_anomaly_logs set notes = %s where patient_id = %s", f"notes-{word}", patient_id)
    records.call("flag_patient", patient_id, f"flag-{word}", NOW)
    records.do("insert into public.daily_checkins (patient_id, date) values (%s, '2026-01-01')", patient_id)
    records.do("update public.consents set evidence = %s where patient_id = %s", f"form-{word}", patient_id)
    records.call("add_api_key", f"key-{secret}", ["read"], (word * 32)[:32].encode())
    records.database.admin.execute(
        "insert into storage.buckets (id, name) values ('voice-recordings', 'voice-recordings') on conflict do nothing"
    )
    records.database.admin.execute(
        "insert into storage.objects (bucket_id, name, metadata) values ('voice-recordings', %s, %s)",
        [f"{patient_id}/{named['played']}.wav", f'{{"of": "{word}"}}'],
    )
    named["alert"] = records.one("select id from public.caregiver_alerts where patient_id = %s", patient_id)
    records.do("update public.caregiver_alerts set notes = %s where id = %s", f"alert-{word}", named["alert"])
    named["log"] = records.one(
        "select id from public.voice_anomaly_logs where patient_id = %s order by created_at desc limit 1", patient_id
    )
    named["caregiver"] = records.one("select id from public.patient_caregivers where user_id = %s", named["primary"])
    named["viewing"] = records.one("select id from public.patient_caregivers where user_id = %s", named["viewer"])
    return named


@pytest.fixture(scope="module")
def house(server: Server) -> Iterator[House]:
    with server.clone(server.migrated_template) as database:
        records = Records(database)
        records.register()
        a = family(records, PERSON, SECRET, CONTACT, VOICES, CHANGED)
        b = family(records, "badger", "lemur", "+493088", [(1.0, 0.0, 0.0)] * 3, (0.0, 1.0, 0.0))
        database.admin.execute("analyze")
        names = {"a": a.pop("patient"), "b": b.pop("patient"), **a} | {f"my_{name}": value for name, value in b.items()}
        found = House(records, names)
        rows = records.rows(
            """select embedding::text as v from voice.embeddings where patient_id = %s
               union select embedding::text from voice.baselines where patient_id = %s""",
            names["a"], names["a"],
        )  # fmt: skip
        parts = {part.lstrip("-") for row in rows for part in row["v"].strip("[]").split(",")}
        # Seven digits after the point: a time has six.
        found.vectors = sorted({part[:9] for part in parts if len(part) >= 9})
        found.before = found.state()
        yield found


def test_the_detector_finds_everything_in_what_the_owner_reads(house: House) -> None:
    shown = str(
        [
            house.records.rows(f"select t::text from {table} as t")
            for table in ("public.patients", "public.patient_caregivers", "public.call_logs", "voice.embeddings")
        ]
    )
    assert set(house.found(shown, (PERSON, SECRET, CONTACT))) >= {PERSON, SECRET, CONTACT}
    assert len(house.vectors) > 10
    assert set(house.vectors) & set(house.found(shown, ()))
    baselines = str(house.records.rows("select t::text from voice.baselines as t"))
    assert set(house.found(shown + baselines, ())) == set(house.vectors)


@pytest.mark.parametrize(
    "steps",
    [
        "select name from public.patients",
        "do $$ begin raise notice '%', (select name from public.patients where id = '{a}'); end $$",
        "select (select name from public.patients where id = '{a}')::integer",
        "copy public.patients to stdout",
        "select 1 / (case when name like '%' || 'bra' then 0 else 1 end) from public.patients",
        "select 1;; select phone from public.patient_caregivers",
    ],
)
def test_the_detector_sees_rows_notices_errors_and_copies(house: House, steps: str) -> None:
    shown, codes = house.try_to(steps, house.database.connect(house.database.owner_url))
    assert house.found(shown, (PERSON, CONTACT)) or DIVISION_BY_ZERO in codes


def test_the_detector_sees_a_change(house: House) -> None:
    for change in (
        "update public.patients set timezone = 'Europe/Berlin' where id = '{a}'",
        "update public.caregiver_alerts set repeat_count = 7 where id = '{alert}'",
        "drop policy caregivers_read_their_patients on public.patients",
        "grant select on voice.embeddings to anon",
        "delete from storage.objects where name like '{a}%'",
    ):
        with house.database.admin.transaction(force_rollback=True):
            house.database.admin.execute(house.fill(change).encode())
            assert house.state() != house.before
    assert not house.changed()


# What a stranger to the family and what somebody without an account asks. The stranger is the primary caregiver of B.
RELATIONS = [
    "patients", "patient_caregivers", "health_flags", "daily_checkins", "voice_anomaly_logs", "caregiver_alerts",
    "alert_changes", "consents", "caregiver_patients", "voice_timeline", "alert_history", "recent_anomaly_logs",
    "patient_voice_baseline", "silent_patients", "check_status", "alert_deliveries", "audit_trail",
    "pipeline_health", "operator_issues", "call_logs",
]  # fmt: skip
PRIVATE = [
    "voice.embeddings", "voice.baselines", "voice.baseline_samples", "care.checks", "care.check_errors",
    "care.recordings", "care.deliveries", "care.deletions", "care.audit_log", "care.tombstones",
    "care.api_keys", "care.settings", "voice.policies", "care.alert_openings", "care.unmatched_calls",
]  # fmt: skip
LEAK = """create function pg_temp.leak(t text) returns boolean language plpgsql cost 0.0000001
    as $$ begin raise notice '%', t; return true; end $$"""
READING = [
    "select * from patients where id = '{a}'",
    "select * from patients where true or id = '{a}'",
    "select name from (select * from patients offset 0) as everything",
    "with stolen as materialized (select * from patients) select * from stolen",
    "with recursive stolen as (select id, name from patients union select id, name from stolen) select * from stolen",
    "select p.* from patients as p right join (values ('{a}'::uuid)) as wanted (id) on p.id = wanted.id",
    "select p.name from call_logs as c join patients as p on p.id = c.patient_id where c.patient_id = '{a}'",
    "select l.*, p from voice_anomaly_logs as l left join patients as p on true where l.patient_id = '{a}'",
    "select (select string_agg(name, ',') from patients)",
    "select array(select p from patients as p)::text",
    "select to_jsonb(p) from patients as p",
    "select row_to_json(p), hstore from patients as p, lateral (select p::text as hstore) as l",
    "select json_agg(l) from voice_anomaly_logs as l",
    "select query_to_xml('select * from patients', true, false, '')",
    "select table_to_xml('public.patients', true, false, '')",
    "select schema_to_xml('public', true, false, '')",
    "select database_to_xml(true, false, '')",
    "select cursor_to_xml('nothing', 1, true, false, '') from patients;; begin;; "
    "declare c cursor for select * from patients;; fetch all from c;; rollback",
    "select count(*) filter (where id = '{a}') * 1 / (1 - count(*) filter (where id = '{a}')) from patients",
    "select case when exists (select from patients where id = '{a}') then 'zeb' || 'ra' end",
    "select case when count(*) > 1 then 'zeb' || 'ra' end from patients",
    "select case when (select count(distinct patient_id) from call_logs) > 1 then 'zeb' || 'ra' end",
    "select case when max(id::text) = '{a}' or min(id::text) = '{a}' then 'zeb' || 'ra' end from patients",
    "select 1 / (case when id = '{a}' then 0 else 1 end) from patients",
    "select * from patients where 1 / (case when name like '%' || 'bra' then 0 else 1 end) = 1",
    "select * from voice_timeline where 1 / (case when patient_id = '{a}' then 0 else 1 end) = 1",
    "select * from alert_history where 1 / (case when patient_id = '{a}' then 0 else 1 end) = 1",
    "select * from patients where name::integer = 1",
    "select * from voice_timeline where notes::integer = 1",
    "select * from caregiver_patients where known_as::uuid is null",
    "select * from alert_history where notes::date is null",
    "select * from patients where name::regclass is null",
    "select * from patients order by name::inet",
    LEAK + ";; select * from patients where pg_temp.leak(name)",
    LEAK + ";; select * from voice_anomaly_logs where pg_temp.leak(notes)",
    LEAK + ";; select * from call_logs where pg_temp.leak(summary)",
    LEAK + ";; select * from voice_timeline where pg_temp.leak(notes)",
    LEAK + ";; select * from caregiver_patients where pg_temp.leak(name)",
    LEAK + ";; select * from recent_anomaly_logs where pg_temp.leak(notes)",
    LEAK + ";; select * from patient_caregivers where pg_temp.leak(phone)",
    LEAK + ";; select * from silent_patients where pg_temp.leak(silent_patients::text)",
    LEAK + ";; select * from storage.objects where pg_temp.leak(metadata::text)",
    LEAK + ";; set enable_seqscan = off;; select * from patients where pg_temp.leak(name) and id = '{a}'",
    LEAK + ";; create operator pg_temp.~~~~ (function = pg_temp.leak, rightarg = text);; "
    "select * from patients where operator(pg_temp.~~~~) name",
    LEAK + ";; explain analyze select * from patients where pg_temp.leak(name)",
    "explain (analyze, verbose) select * from patients where id = '{a}' and name <> ''",
    "explain (verbose, format json) select * from voice_timeline where patient_id = '{a}'",
    "prepare stolen as select * from patients;; execute stolen;; deallocate stolen",
    "set row_security = off;; select * from patients",
    "copy patients to stdout",
    "copy (select * from patients) to stdout",
    "copy (table voice_timeline) to stdout with (format csv)",
    "copy patients to program 'cat'",
    "copy patients to '/tmp/patients'",
    "select * from pg_stats where tablename = 'patients' and schemaname = 'public'",
    "select most_common_vals, histogram_bounds from pg_stats where schemaname in ('public', 'care', 'voice')",
    "select * from pg_statistic",
    "select * from pg_stats_ext_exprs",
    "select pg_read_file('PG_VERSION')",
    "select pg_ls_dir('.')",
    "select lo_import('/etc/hostname')",
    "select lo_export(1, '/tmp/taken')",
    "select query from pg_stat_activity where query like '%' || 'ebra'",
    "select * from pg_stat_get_activity(null) where query like '%' || 'ebra%'",
    "select * from pg_prepared_statements",
    "select passwd from pg_shadow",
    "select * from pg_largeobject",
    "select pg_get_functiondef('care.patients_of_caller'::regproc)",
    "select name from storage.objects",
    "select metadata from storage.objects where name = '{a}/{played}.wav'",
    "select * from storage.objects where bucket_id = 'voice-recordings' or true",
    "select * from auth.users",
    "listen voice;; listen check_requested;; select pg_notify('voice', 'x')",
]
BECOMING = [
    "set role postgres;; select * from patients",
    "set role supabase_admin;; select * from patients",
    "set role retrocare_service;; select * from care.patient_list()",
    "set role supabase_storage_admin;; select * from storage.objects",
    "set session authorization postgres;; select * from patients",
    "set session authorization retrocare_service;; select * from care.patient_list()",
    "reset role;; select * from patients",
    "reset session authorization;; select * from patients",
    "begin;; set local role none;; select * from patients;; rollback",
    "select set_config('role', 'postgres', false);; select * from patients",
    "select set_config('session_authorization', 'postgres', false);; select * from patients",
    "alter role authenticator superuser;; select * from patients",
    "create role thief superuser login",
    "grant postgres to authenticator;; set role postgres;; select * from patients",
    "alter role postgres password 'x'",
    "create extension dblink",
    "create extension file_fdw",
    "load 'auto_explain'",
    "alter system set log_statement = 'all'",
    "set session_replication_role = replica;; select * from patients",
    "do $$ begin set local role postgres; "
    "raise notice '%', (select name from public.patients where id = '{a}'); end $$",
    "create function pg_temp.f() returns setof patients language sql security definer as 'select * from patients';; "
    "select * from pg_temp.f()",
    "create temp view v as select * from patients;; select * from v",
    "create temp view v with (security_invoker = false) as select * from call_logs;; select id from v where true",
    "create temp table patients as select * from public.patients;; select * from patients",
    "create temp table t as select * from voice_timeline;; select * from t",
    "select * into temp t from patients;; select * from t",
    "create materialized view public.m as select * from patients;; select * from public.m",
]
# A table or an operator of one's own, in front of ours, then a function of ours that runs as its owner.
SHADOWING = [
    "create temp table patient_caregivers (patient_id uuid, user_id uuid, role public.caregiver_role);; "
    "insert into pg_temp.patient_caregivers values ('{a}', '{my_primary}', 'primary');; "
    "set search_path = pg_temp, public;; select * from public.patients;; select export_patient('{a}')",
    "create temp table caregiver_alerts (like public.caregiver_alerts);; set search_path = pg_temp, public;; "
    "select public.acknowledge_alert('{alert}')",
    "create function pg_temp.uid() returns uuid language sql as $$ select '{primary}'::uuid $$;; "
    "set search_path = pg_temp, auth, public;; select * from public.patients;; select export_patient('{a}')",
    "create function pg_temp.now() returns timestamptz language plpgsql as "
    "$$ begin raise notice '%', (select name from public.patients where id = '{a}'); "
    "return clock_timestamp(); end $$;; "
    "set search_path = pg_temp, pg_catalog, public;; select public.acknowledge_alert('{my_alert}')",
    "create function pg_temp.yes(uuid, uuid) returns boolean language sql as 'select true';; "
    "create operator pg_temp.= (function = pg_temp.yes, leftarg = uuid, rightarg = uuid);; "
    "set search_path = pg_temp, pg_catalog, public;; select * from public.patients;; "
    "select public.read_recording('{played}');; select public.export_patient('{a}')",
    "create function pg_temp.yes(public.caregiver_role, public.caregiver_role) returns boolean language sql "
    "as 'select true';; create operator pg_temp.>= (function = pg_temp.yes, leftarg = public.caregiver_role, "
    "rightarg = public.caregiver_role);; set search_path = pg_temp, pg_catalog, public;; "
    "select * from public.patients;; select id from public.call_logs",
    "create function pg_temp.to_jsonb(anyelement) returns jsonb language plpgsql as "
    "$$ begin raise notice '%', $1; return '{}'; end $$;; set search_path = pg_temp, pg_catalog, public;; "
    "select public.export_patient('{a}')",
    "create domain pg_temp.uuid as text;; set search_path = pg_temp, pg_catalog, public;; "
    "select public.export_patient('{a}')",
    "create schema voice2;; create function public.now() returns timestamptz language sql as 'select null'",
    "create function voice.mine() returns integer language sql as 'select 1'",
    "create function extensions.mine() returns integer language sql as 'select 1'",
    "create or replace function auth.uid() returns uuid language sql as $$ select '{primary}'::uuid $$",
]
# Names of the other family's rows, and odd values, in the arguments of the functions of the Data API.
CALLING = [
    "select * from export_patient('{a}')",
    "select * from export_patient(null)",
    "select * from read_recording('{played}')",
    "select * from read_recording(null)",
    "select * from acknowledge_alert('{alert}')",
    "select * from acknowledge_alert(null)",
    "select * from snooze_alert('{alert}', now() + interval '1 hour')",
    "select * from snooze_alert('{alert}', 'infinity')",
    "select * from snooze_alert('{alert}', null)",
    "select * from resolve_alert('{alert}', 'ill', 'taken')",
    "select * from resolve_alert('{alert}', null)",
    "select * from resolve_alert('{alert}', 'ill', '''; update public.patients set name = ''x''; --')",
    "select * from resolve_alert('{alert}', 'ill', repeat('x', 1000000))",
    "select * from match_voices('[0.31,0.83,0.47]', count => 100, min_similarity => -1)",
    "select * from voice.match_voices('[0.31,0.83,0.47]', null, 100, -1)",
    "select * from record_consent('{a}', 'forged')",
    "select * from record_consent('{a}', null)",
    "select * from record_consent(null, 'forged')",
    "select * from record_consent('{a}', "
    "$$x'); select set_config('request.jwt.claims', '{\"sub\":\"{primary}\"}', false); --$$)",
    "select * from withdraw_consent('{a}')",
    "select * from withdraw_consent(null)",
    "select * from add_caregiver('{a}', 'primary', 'Thief', user_id => '{my_primary}')",
    "select * from add_caregiver(null, 'primary', 'Thief', user_id => '{my_primary}')",
    "select * from add_caregiver('{b}', 'viewer', 'x', user_id => '{primary}');; select * from caregiver_patients",
    "select * from change_caregiver('{caregiver}', 'viewer', 'x', null, null, '{my_primary}', null)",
    "select * from change_caregiver('{my_caregiver}', 'primary', '{a}', null, null, '{primary}', null)",
    "select * from change_caregiver(null, 'viewer', 'x', null, null, null, null)",
    "select * from remove_caregiver('{caregiver}')",
    "select * from remove_caregiver(null)",
    "select * from set_my_preferences('{a}', 'x', 'en', null, null, null)",
    "select * from set_my_preferences(null, 'x', 'en', null, null, null)",
    "select * from erase_patient('{a}', 'forged')",
    "select * from erase_patient_voice('{a}', 'forged')",
    "select * from receive_call_report('vapi', 'forged', patient_id => '{a}')",
    "select * from claim_recordings('w', 2147483647, 1e308)",
    "select * from claim_deliveries('w', 2147483647, 60)",
    "select * from claim_deletions('w', 2147483647, 60)",
    "select * from run_job('advance_alerts', 'infinity')",
    "select * from upsert_call('{a}', 'vapi', 'mine', 'https://evil.example.org/a.wav')",
    "select * from store_recording('{played}', '{a}', 'storage:voice-recordings/x', 'mono')",
    "select * from fail_recording('{played}', '{a}', 'x', 'x', true)",
    "select * from finish_delivery(1, '{a}')",
    "select * from fail_deletion(1, '{a}', 'x')",
    "select * from finish_reconciliation('vapi', 'infinity')",
    "select * from unreported_calls('vapi', array['call-' || 'zebra'])",
    "select care.caregiver_name('{primary}')",
    "select care.patients_of_caller('viewer')",
    "select care.export_patient('{a}')",
    "select voice.compare('[1,0,0]', '[0,1,0]')",
    "select * from care.patient_list()",
    "select * from care.row_counts('{a}')",
    "select * from care.api_key_list()",
    "select * from care.audit_trail('{a}', null, 10)",
    "select care.add_api_key('mine', '{admin}', sha256('x'))",
    "select care.note_audit('exported', 'forged', '{a}')",
    "select care.patient_for_caller('{a}', 'viewer')",
    "select care.alert_to_act_on('{alert}')",
]
WRITING = [
    "update patients set name = 'x' where id = '{a}'",
    "update patients set voice_consent_at = null",
    "update voice_anomaly_logs set notes = 'x' where patient_id = '{a}'",
    "update voice_anomaly_logs set notes = notes where patient_id = '{a}' returning *",
    "update voice_anomaly_logs as mine set notes = theirs.notes from voice_anomaly_logs as theirs "
    "where theirs.patient_id = '{a}' and mine.patient_id = '{b}' returning mine.*, theirs.*",
    "update voice_anomaly_logs set alert_sent = true",
    "update voice_anomaly_logs set anomaly_score = 0",
    "update voice_anomaly_logs set patient_id = '{b}' where patient_id = '{a}'",
    "update recent_anomaly_logs set notes = 'x'",
    "update voice_timeline set notes = 'x'",
    "update call_logs set recording_ref = 'https://example.org/x' where patient_id = '{a}'",
    "update call_logs set patient_id = '{b}' where patient_id = '{a}' returning id",
    "update caregiver_alerts set state = 'resolved' where id = '{alert}' returning *",
    "update caregiver_alerts set patient_id = '{b}'",
    "update patient_caregivers set patient_id = '{a}'",
    "update patient_caregivers set role = 'primary', user_id = '{my_primary}' where patient_id = '{a}'",
    "update consents set withdrawn_at = now()",
    "update alert_changes set change = 'resolved'",
    "update care.organisation_settings set recent_call_days = 9",
    "update voice.policies set medium_above = 1",
    "update care.audit_log set actor_role = 'x'",
    "update storage.objects set name = '{b}/taken.wav' where name like '{a}%' returning *",
    "update auth.users set email = 'x' where id = '{primary}'",
    "delete from patients where id = '{a}' returning *",
    "delete from call_logs where patient_id = '{a}' returning id",
    "delete from voice_anomaly_logs where patient_id = '{a}'",
    "delete from storage.objects where name like '{a}%' returning *",
    "delete from patients using voice_anomaly_logs as l where l.patient_id = patients.id returning l.*",
    "delete from care.audit_log",
    "insert into patient_caregivers (patient_id, user_id, role) values ('{a}', '{my_primary}', 'primary')",
    "insert into patient_caregivers (id, patient_id, user_id) values ('{caregiver}', '{a}', '{my_primary}') "
    "on conflict (id) do update set user_id = excluded.user_id returning *",
    "insert into patients (id, name) values ('{a}', 'x') "
    "on conflict (id) do update set name = patients.name returning *",
    "insert into patients select * from patients where id = '{a}' on conflict do nothing returning *",
    "insert into voice_anomaly_logs (id, patient_id) values ('{log}', '{a}') on conflict (id) do nothing",
    "insert into call_logs (patient_id, recording_ref) values ('{a}', 'https://example.org/x')",
    "insert into health_flags (patient_id, flag) values ('{a}', 'sick')",
    "insert into daily_checkins (patient_id, date) values ('{a}', '2026-01-02')",
    "insert into consents (patient_id, evidence) values ('{a}', 'forged')",
    "insert into storage.objects (bucket_id, name) values ('voice-recordings', '{a}/{played}.wav') "
    "on conflict (bucket_id, name) do update set metadata = objects.metadata returning *",
    "insert into voice.embeddings (patient_id) values ('{a}')",
    "insert into care.audit_log (action, actor_role, subject) values ('exported', 'x', 'forged')",
    "merge into patients using (values ('{a}'::uuid)) as w (id) on w.id = patients.id "
    "when matched then update set name = 'x'",
    "truncate patients cascade",
    "truncate voice_anomaly_logs",
    "lock table patients in access exclusive mode",
    "lock table voice_anomaly_logs in exclusive mode",
    "select * from patients for update",
    "select * from caregiver_alerts where id = '{alert}' for share",
    "alter table patients disable row level security",
    "alter table patients no force row level security;; alter table patients owner to authenticated",
    "alter view voice_timeline set (security_invoker = false)",
    "alter function care.patients_of_caller(public.caregiver_role) set search_path = pg_temp",
    "alter default privileges in schema public grant select on tables to anon",
    "create policy everything on patients using (true)",
    "alter policy caregivers_read_their_patients on patients using (true)",
    "drop policy caregivers_read_their_patients on patients",
    "create policy everything on storage.objects using (true)",
    "create trigger t before update on voice_anomaly_logs "
    "for each row execute function suppress_redundant_updates_trigger()",
    "create rule r as on select to patients do instead select 1",
    "create index on patients ((1 / length(name)))",
    "create event trigger t on ddl_command_end execute function pg_catalog.tsvector_update_trigger()",
    "grant select on voice.embeddings to authenticated",
    "grant all on patients to public",
    "comment on table patients is 'taken'",
    "drop table patients cascade",
    "drop schema voice cascade",
    "drop schema care cascade",
    "vacuum full patients",
    "cluster patients using patients_pkey",
    "create publication p for all tables",
    "create table public.taken as select 1",
]  # fmt: skip
VECTORS = [
    "select * from voice.embeddings",
    "select embedding from voice.embeddings",
    "select embedding::text from voice.baselines",
    "select embedding from voice.baselines where patient_id = '{a}'",
    "select b from voice.baselines as b",
    "select b::text from voice.baselines as b",
    "select to_jsonb(b) from voice.baselines as b",
    "select (b).embedding from voice.baselines as b",
    "select b.* from voice.baselines as b natural join voice.baselines as c",
    "select count(embedding) from voice.baselines",
    "select id from voice.baselines order by embedding operator(extensions.<=>) '[1,0,0]'",
    "select extensions.avg(embedding) from voice.baselines",
    "select id from voice.baselines where embedding is not null",
    "select ctid, xmin from voice.baselines",
    "copy voice.embeddings to stdout",
    "copy voice.baselines (embedding) to stdout",
    "select row_to_json(v) from voice_anomaly_logs as l join voice.embeddings as v on v.id = l.embedding_id",
    "select * from patient_voice_baseline",
    "select to_jsonb(v) from patient_voice_baseline as v",
    "select * from voice_anomaly_logs",
    "select * from check_status",
    "select table_to_xml('voice.embeddings', true, false, '')",
    "select most_common_vals, histogram_bounds from pg_stats where attname = 'embedding'",
    "create temp table t (like voice.embeddings including all);; select * from t",
    "create temp view v as select embedding from voice.embeddings;; select * from v",
    "lock table voice.embeddings",
    "select recording_source_url from call_logs",
    "select recording_ref from call_logs",
    "select to_jsonb(c) from call_logs as c",
    "select key_sha256 from care.api_keys",
    "select * from care.audit_log",
    "select d::text from care.deliveries as d",
]


def attempts() -> Iterator[Any]:
    """Give who, and what that person tries."""
    for who in ("anon", "stranger"):
        reads = [f"select * from {name}" for name in RELATIONS] + [f"table {name}" for name in PRIVATE]
        for steps in reads + READING + BECOMING + VECTORS + SHADOWING + CALLING + WRITING:
            yield pytest.param(who, steps, id=f"{who}: {' '.join(steps.split())[-70:]}")
    for who in ("viewer", "family"):
        for steps in VECTORS + BECOMING[:12] + WRITING[5:]:
            yield pytest.param(who, steps, id=f"{who}: {' '.join(steps.split())[-70:]}")
    for steps in VECTORS:
        yield pytest.param("service_role", steps, id=f"service_role: {steps[-70:]}")
    for steps in [f"table public.{name}" for name in RELATIONS] + [f"table {name}" for name in PRIVATE] + VECTORS:
        yield pytest.param("retrocare_service", steps, id=f"retrocare_service: {steps[-70:]}")


@pytest.mark.parametrize(("who", "steps"), list(attempts()))
def test_nobody_crosses_the_line(house: House, who: str, steps: str) -> None:
    words = {
        "anon": (PERSON, SECRET, CONTACT),
        "stranger": (PERSON, SECRET, CONTACT),
        "viewer": (SECRET, CONTACT),
        "family": (SECRET, CONTACT),
    }.get(who, ())
    shown, codes = attempt(house, who, steps)
    assert not set(codes) & (NEVER_TRIED | {DIVISION_BY_ZERO}), shown
    assert codes[:1] != ["42P01"] or "regclass" in steps, shown
    assert house.found(shown, words) == []
    assert not house.changed()


def attempt(house: House, who: str, steps: str) -> tuple[str, list[str]]:
    if who == "retrocare_service":
        with psycopg.connect(house.database.service_url, autocommit=True) as connection:
            connection.execute("set search_path = public, extensions")
            return house.try_to(steps, connection)
    account = {"stranger": "my_primary", "viewer": "viewer", "family": "family"}.get(who)
    role = "authenticated" if account else who
    with house.database.as_role(role, house.names[account] if account else None) as connection:
        return house.try_to(steps, connection)


# A token that was signed by the project, and yet says nothing that is of use; role is not ours to believe in either.
CLAIMS = [
    '{"role": "authenticated", "sub": "not a uuid"}',
    '{"role": "authenticated", "sub": ""}',
    '{"role": "authenticated", "sub": ["{primary}"]}',
    '{"role": "authenticated", "sub": {"id": "{primary}"}}',
    '{"role": "authenticated", "sub": "{primary}, {my_primary}"}',
    '{"role": "authenticated", "sub": "{my_primary}", "sub2": "{primary}", "user_id": "{primary}"}',
    '{"role": "service_role", "sub": "{my_primary}"}',
    '{"role": "postgres", "sub": "{my_primary}"}',
    '{"role": "authenticated", "sub": "{my_primary}", "app_metadata": {"role": "service_role"}}',
    '{"role": "authenticated", "sub": "00000000-0000-0000-0000-000000000000"}',
    '{"role": "authenticated", "sub": "{a}"}',
    '{"role": "authenticated", "sub": "{my_primary}", "patient_id": "{a}", "role2": "primary"}',
    "no JSON",
    "[]",
    "0",
    "{}",
    '{"sub": null}',
]
ASKING = [
    "select * from patients", "select * from voice_timeline", "select name from storage.objects",
    "select export_patient('{a}')", "select withdraw_consent('{a}')", "select record_consent('{a}', 'forged')",
    "select read_recording('{played}')", "select acknowledge_alert('{alert}')",
    "select remove_caregiver('{caregiver}')",
]  # fmt: skip


@pytest.mark.parametrize("claims", CLAIMS)
def test_odd_claims_open_nothing(house: House, claims: str) -> None:
    for steps in ASKING:
        with house.database.as_role("authenticated") as connection:
            connection.execute("select set_config('request.jwt.claims', %s, false)", [house.fill(claims)])
            shown, codes = house.try_to(f"begin;; {steps};; rollback", connection)
        assert house.found(shown, (PERSON, SECRET, CONTACT)) == []
        assert not set(codes) & NEVER_TRIED, shown
        assert codes or " from " in steps


DECIDING = ["export_patient('{a}')", "withdraw_consent('{a}')", "record_consent('{a}', 'forged')"]


@pytest.mark.parametrize(
    "call",
    [
        *DECIDING,
        "acknowledge_alert('{alert}')",
        "snooze_alert('{alert}', now() + interval '1 hour')",
        "resolve_alert('{alert}', 'ill')",
        "read_recording('{played}')",
        "add_caregiver('{a}', 'primary', 'Thief')",
        "change_caregiver('{caregiver}', 'viewer', 'x', null, null, null, null)",
        "remove_caregiver('{viewing}')",
        "set_my_preferences('{a}', 'x', 'en', null, null, null)",
    ],
)
def test_a_token_that_names_no_account_decides_nothing(house: House, call: str) -> None:
    with house.database.as_role("authenticated") as connection:
        shown, codes = house.try_to(f"begin;; select {call};; rollback", connection)
    assert house.found(shown, (PERSON, SECRET, CONTACT)) == []
    assert codes


@pytest.mark.parametrize("who", ["anon", "stranger"])
def test_nobody_empties_storage(house: House, who: str) -> None:
    assert attempt(house, who, "begin;; truncate storage.objects;; rollback")[1] == ["42501"]


@pytest.mark.parametrize(
    ("who", "may"), [("primary", 1), ("family", 1), ("clinician", 1), ("viewer", 0), ("stranger", 0)]
)
def test_a_recording_in_storage_is_there_for_those_who_may_play_it(house: House, who: str, may: int) -> None:
    account = house.names["my_primary" if who == "stranger" else who]
    with house.database.as_role("authenticated", account) as connection:
        seen = connection.execute(house.fill("select from storage.objects where name like '{a}%'").encode()).rowcount
        assert seen == may
        for change in (
            "update storage.objects set metadata = '{}'",
            "delete from storage.objects",
        ):
            assert connection.execute(change.encode()).rowcount == 0
    assert not house.changed()
