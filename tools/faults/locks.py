"""The hunter of deadlocks: every function that writes, in random order, from many connections, over few patients.

Locks are taken in one order: the encoders, then the patient, then whatever is the patient's. Whoever breaks it waits in
a circle with somebody else before long.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter

import psycopg
from psycopg.rows import dict_row

from faults.crashes import Told
from fixtures.calibrated import RAW_ONLY, calibrate
from fixtures.databases import Database
from fixtures.records import ENCODER, USUAL, Records

PATIENTS = 4
STATEMENT_SECONDS = 20  # no statement takes a tenth of it, unless it waits for somebody who waits as well
STUCK = {"40P01": "deadlock", "57014": "statement time-out", "55P03": "lock time-out"}

# What each connection does, by the function that it hunts. Of the rows that there are, one is taken at random.
LEASED = "from care.{0} where state = 'leased' order by random() limit 1"
SOMEBODY = "(select id from public.patients order by random() limit 1)"
SOME_ACCOUNT = "select user_id from public.patient_caregivers where user_id is not null order by random() limit 1"
SOME_CALL = "(select id from public.call_logs order by random() limit 1)"
VOICE = "format('[%%s,%%s,0]', cos(a), sin(a))::extensions.vector"
DOCUMENT = json.dumps(RAW_ONLY).replace("%", "%%")
ACTIONS = {
    "abstain_check": "select care.abstain_check(id, lease_token, 'no_speech', '{}') " + LEASED.format("checks"),
    "acknowledge_alert": "select care.acknowledge_alert(id) from public.caregiver_alerts order by random() limit 1",
    "activate_encoder": "select voice.activate_encoder(id, true) from care.models where not is_active limit 1",
    "add_api_key": "select care.add_api_key(gen_random_uuid()::text, '{read}', sha256(random()::text::bytea))",
    "add_calibration": f"""select voice.add_calibration('{ENCODER}',
        jsonb_set('{DOCUMENT}', '{{prior,degrees}}', to_jsonb(18 + (random() * 3)::integer)))""",
    "add_caregiver": f"select care.add_caregiver({SOMEBODY}, 'family', 'Somebody', '+4930123456', null, null, null)",
    "add_patient": """select care.add_patient('Ana', 'UTC', true, 'a form')
        where (select count(*) from public.patients) < 6""",
    "change_caregiver": """select care.change_caregiver(id, role, 'Another', '+4930123457', null, user_id, null)
        from public.patient_caregivers order by random() limit 1""",
    "change_patient": f"select care.change_patient({SOMEBODY}, 'Ana', 'UTC', null, 3)",
    "claim_checks": f"select voice.claim_checks('{ENCODER}', 'hunter', 3, 0.5)",
    "claim_deletions": "select care.claim_deletions('hunter', 5, 0.5, now())",
    "claim_deliveries": "select care.claim_deliveries('hunter', 5, 0.5, now())",
    "claim_receipts": "select care.claim_receipts(5, now() + interval '3 minutes')",
    "claim_recordings": "select care.claim_recordings('hunter', 3, 0.5, null, now())",
    "complete_check": f"""select voice.complete_check(
            id, lease_token, {VOICE}, sha256(random()::text::bytea), 9, 30, '{{}}')
        from care.checks cross join (select random() * 1.5 as a) as angle
        where state = 'leased' order by random() limit 1""",
    "erase_patient": f"select care.erase_patient({SOMEBODY}, 'hunted')",
    "erase_patient_voice": f"select care.erase_patient_voice({SOMEBODY}, 'hunted')",
    "export_patient": f"select care.export_patient({SOMEBODY})",
    "fail_check": "select care.fail_check(id, lease_token, 'x', 'x', random() < 0.3) " + LEASED.format("checks"),
    "fail_deletion": "select care.fail_deletion(id, lease_token, 'x', now()) " + LEASED.format("deletions"),
    "fail_delivery": "select care.fail_delivery(id, lease_token, 'x', 'x', random() < 0.3, false, now()) "
    + LEASED.format("deliveries"),
    "fail_recording": "select care.fail_recording(call_log_id, lease_token, 'x', 'x', random() < 0.5, now()) "
    + LEASED.format("recordings"),
    "finish_deletion": "select care.finish_deletion(id, lease_token, now()) " + LEASED.format("deletions"),
    "finish_delivery": "select care.finish_delivery(id, lease_token, 'x', now()) " + LEASED.format("deliveries"),
    "finish_receipt": """select care.finish_receipt(id, random() < 0.5, 'x', now())
        from care.deliveries where state = 'accepted' order by random() limit 1""",
    "finish_reconciliation": "select care.finish_reconciliation('vapi', now())",
    "flag_patient": f"select care.flag_patient({SOMEBODY}, 'flu', now() - interval '1 hour')",
    "hold_calls": "select voice.hold_calls(0.01)",
    "match_voices": "select voice.match_voices('[1,0,0]', null, 3, null)",
    "open_backfill": "select voice.open_backfill(id, true, 5) from voice.encoders order by random() limit 1",
    "open_check": f"select voice.open_check({SOME_CALL}, voice.active_encoder(), 'hunter', 0.5)",
    "rebuild_baselines": "select voice.rebuild_baselines(id, 5) from voice.encoders order by random() limit 1",
    "receive_call_report": f"""select care.receive_call_report('vapi', 'call-' || (random() * 20)::integer,
        {SOMEBODY}, null, now(), now(),
        (array['customer-ended-call', 'voicemail', 'unheard-of'])[1 + (random() * 2)::integer], 'x',
        'https://example.org/a.wav', 'customer', null, null, true, now())""",
    "record_call": f"""select care.record_call({SOMEBODY}, null, 'api', 'https://example.org/a.wav', 'mono', now(),
        null, 'hunter', (random() * 50)::integer::text, sha256('x'))""",
    "record_consent": f"select care.record_consent({SOMEBODY}, 'a form ' || random(), now() - interval '1 day')",
    "register_encoder": f"select voice.register_encoder('{ENCODER}', 3, 1.6)",
    "release_check": "select care.release_check(id, lease_token) " + LEASED.format("checks"),
    "remove_caregiver": "select care.remove_caregiver(id) from public.patient_caregivers order by random() limit 1",
    "renew_lease": "select care.renew_lease(id, lease_token, 0.5) " + LEASED.format("checks"),
    "replay_tombstone": f"select care.replay_tombstone(gen_random_uuid(), {SOMEBODY}, 'voice', 'hunted', now())",
    "requeue_checks": "select care.requeue_checks(null, null)",
    "requeue_deliveries": "select care.requeue_deliveries(null)",
    "resolve_alert": """select care.resolve_alert(
            id, (enum_range(null::public.alert_outcome))[1 + floor(random() * 6)::integer], 'x')
        from public.caregiver_alerts where resolved_at is null order by random() limit 1""",
    "restore_baseline": """select voice.restore_baseline(patient_id, version)
        from voice.baselines where superseded_at is not null order by random() limit 1""",
    "revoke_api_key": "select care.revoke_api_key(name) from care.api_keys where revoked_at is null limit 1",
    "uuid_v7": "select care.uuid_v7()",
    "run_job": """select care.run_job(id, now() + random() * interval '100 days')
        from care.jobs order by random() limit 1""",
    "set_consent": f"select care.set_consent({SOMEBODY}, true, 'a form')",
    "set_organisation_warnings": """select care.set_organisation_warnings(
        (array[1, 4, 12])[1 + (random() * 2)::integer])""",
    "set_warnings_per_year": f"""select care.set_warnings_per_year(
        {SOMEBODY}, (array[1, 4, null])[1 + (random() * 2)::integer])""",
    "ship_calibration": f"select voice.ship_calibration('{ENCODER}', '{DOCUMENT}')",
    "use_calibration": "select voice.use_calibration(encoder, id) from voice.calibrations order by random() limit 1",
    "set_policy": f"""select voice.set_policy('{ENCODER}', '{{"medium_above": 0.25}}')""",
    "store_recording": """select care.store_recording(call_log_id, lease_token,
            'storage:voice-recordings/' || patient_id || '/' || call_log_id || '.wav', 'customer', null) """
    + LEASED.format("recordings"),
    "unflag_patient": f"select care.unflag_patient({SOMEBODY}, null, now())",
    "upsert_call": f"""select care.upsert_call({SOMEBODY}, 'other', 'call-' || (random() * 20)::integer,
        'https://example.org/a.wav', null, now(), null, null)""",
    "use_api_key": "select care.use_api_key(key_sha256, 'read') from care.api_keys order by random() limit 1",
    "withdraw_consent": f"select care.withdraw_consent({SOMEBODY})",
    "withdraw_sample": """select voice.withdraw_sample(call_logs.patient_id, call_logs.id)
        from public.call_logs join voice.embeddings on call_log_id = call_logs.id order by random() limit 1""",
}
# Of a signed-in caregiver.
SIGNED_IN = {
    "snooze_alert": """select care.snooze_alert(id, now() + interval '30 minutes', now()) from public.caregiver_alerts
        where resolved_at is null order by random() limit 1""",
    "read_recording": """select care.read_recording(call_logs.id) from public.call_logs
        join public.patient_caregivers as me on me.patient_id = call_logs.patient_id and me.user_id = auth.uid()
        where recording_ref like 'storage:%%' order by random() limit 1""",
    "set_my_preferences": """select care.set_my_preferences(patient_id, 'Mum', 'en', null, null, null)
        from public.patient_caregivers where user_id = auth.uid()""",
    "acknowledge_alert as a caregiver": ACTIONS["acknowledge_alert"],
    "resolve_alert as a caregiver": ACTIONS["resolve_alert"],
    "remove_caregiver as a caregiver": ACTIONS["remove_caregiver"],
    "record_consent as a caregiver": ACTIONS["record_consent"],
}
# What the service does in one transaction.
TOGETHER = {
    "record_call and open_check": f"""select voice.open_check(
            care.record_call({SOMEBODY}, null, 'api', 'https://example.org/a.wav', 'mono', now(), null),
            voice.active_encoder(), 'hunter', 0.5)""",
    "record_call of a call and open_check": """select voice.open_check(
            care.record_call(patient_id, id, 'api', 'https://example.org/a.wav', 'mono', now(), null),
            voice.active_encoder(), 'hunter', 0.5)
        from public.call_logs order by random() limit 1""",
}
# What may be written to the tables themselves, by service_role or in the SQL editor.
BY_TABLE = {
    "insert a call": f"""insert into public.call_logs (patient_id, recording_ref, "timestamp")
        values ({SOMEBODY}, 'https://example.org/' || random(), now())""",
    "delete a call": f"delete from public.call_logs where id = {SOME_CALL}",
    "insert a flag": f"insert into public.health_flags (patient_id, flag) values ({SOMEBODY}, 'cold')",
    "end a flag": """update public.health_flags set resolved_at = now()
        where id = (select id from public.health_flags where resolved_at is null order by random() limit 1)""",
    "delete a patient": f"delete from public.patients where id = {SOMEBODY}",
    "take consent from the row": f"update public.patients set voice_consent_at = null where id = {SOMEBODY}",
}
ERASES = ("erase_patient", "erase_patient_voice", "withdraw_consent", "delete a patient", "take consent from the row",
          "replay_tombstone", "activate_encoder", "hold_calls")  # fmt: skip


def uncovered(records: Records) -> set[str]:
    """Name the functions that write, that somebody may call, and that nobody hunts."""
    found = records.rows(
        """select proname from pg_proc where pronamespace in ('care'::regnamespace, 'voice'::regnamespace)
               and provolatile = 'v' and exists (select from aclexplode(proacl) where grantee <> proowner)"""
    )
    return {row["proname"] for row in found} - ACTIONS.keys() - SIGNED_IN.keys()


def no_deadlock(database: Database, seconds: float, connections: int = 12, seed: int = 1) -> Told:
    """Hunt for so long: no deadlock, no time-out, and in the end every check has one end and no vector is an orphan."""
    records = Records(database)
    records.register()
    records.register("next-v1")
    calibrate(records, RAW_ONLY)
    records.set_policy(baseline_minimum_samples=1)  # so that people have charts at once
    assert uncovered(records) == set(), f"these write, and nobody hunts them: {uncovered(records)}"
    _people(records)
    everything = ACTIONS | SIGNED_IN | TOGETHER | BY_TABLE
    until = time.monotonic() + seconds
    done: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    stuck: list[str] = []

    def hunt(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        with psycopg.connect(database.owner_url, autocommit=True, row_factory=dict_row) as connection:
            connection.execute(f"set statement_timeout = '{STATEMENT_SECONDS}s'")
            while time.monotonic() < until and not stuck:
                name = chance.choice(list(everything))
                if name in ERASES and chance.random() < 0.8:
                    continue  # now and then is enough: there must be something left to do
                claims = ""
                if name in SIGNED_IN:
                    found = connection.execute(SOME_ACCOUNT).fetchone()
                    claims = f'{{"role": "authenticated", "sub": "{found["user_id"]}"}}' if found else ""
                try:
                    connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
                    connection.execute(everything[name].replace("%%", "%").encode())
                    done[name] += 1
                except psycopg.Error as error:
                    state = error.sqlstate or "no answer"
                    if state in STUCK or "has been open for too long" in str(error):
                        stuck.append(f"{name}: {STUCK.get(state, state)}: {error}")
                    refused[f"{name} {state}"] += 1

    def repopulate() -> None:
        while time.monotonic() < until and not stuck:
            _people(records)
            time.sleep(0.2)

    threads = [threading.Thread(target=hunt, args=[number]) for number in range(connections)]
    threads.append(threading.Thread(target=repopulate))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stuck == [], stuck
    ours = ("RV", "PT", "23", "55000")  # refusals of ours, and constraints
    strange = {what: count for what, count in refused.items() if not what.rpartition(" ")[2].startswith(ours)}
    assert strange == {}, strange
    never = sorted(name for name in everything if not done[name])
    assert never == [] or seconds < 20, f"never done: {never}"
    orphans = records.one(
        """select count(*) from (
               select patient_id from voice.embeddings union all select patient_id from voice.baselines) as vectors
           where patient_id not in (select id from public.patients where voice_consent_at is not null)"""
    )
    assert orphans == 0, f"{orphans} vectors of nobody who consents"
    return {"calls": sum(done.values()), "refused": sum(refused.values()), "never done": len(never)}


def _people(records: Records) -> None:
    """Bring the number of consenting patients back to what is wanted, with caregivers and a baseline."""
    present = records.one("select count(*) from public.patients where voice_consent_at is not null")
    for _ in range(PATIENTS - present):
        patient_id = records.patient()
        try:
            for role in ("primary", "family"):
                records.caregiver(patient_id, role)
            records.do("update public.patients set phone = '+4930555' where id = %s", patient_id)  # one household
            records.judge(patient_id, USUAL)
        except psycopg.Error:
            continue  # erased again already, or its check is another's
