"""How the large tables lie on the disk: which updates write no index, and how soon what they leave is cleared away."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from fixtures.records import NOON, Records


def test_a_lease_is_renewed_without_writing_an_index(records: Records) -> None:
    claim = records.open(records.call_log(records.patient()))
    for _ in range(5):
        records.call("renew_lease", claim["check_id"], claim["lease_token"], 60.0)
    records.database.close()  # who leaves reports what was done
    read = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relid = 'care.checks'::regclass"
    assert list(records.row(read).values()) == [6, 5]  # the sixth, the lease itself, changed the state


@pytest.mark.parametrize("table", ["public.call_logs", "care.checks", "voice.baselines"])
def test_what_updates_leave_is_cleared_away_before_it_is_a_fiftieth(records: Records, table: str) -> None:
    share = records.one(
        """select option_value::float8 from pg_class, pg_options_to_table(reloptions)
           where oid = %s::regclass and option_name = 'autovacuum_vacuum_scale_factor'""",
        table,
    )
    assert 0 < share <= 0.02


def test_ids_of_calls_and_logs_rise_with_time_and_are_valid_uuids(records: Records) -> None:
    patient_id = records.patient()
    began = time.time()
    for day in range(8):
        time.sleep(0.002)  # the ids of one millisecond are in no order
        records.judge(patient_id, at=NOON + timedelta(days=day))
    for table in ("public.call_logs", "public.voice_anomaly_logs"):
        ids = [row["id"] for row in records.rows(f"select id from {table} order by created_at")]
        assert ids == sorted(ids)
        assert len(set(ids)) == len(ids) >= 7
        assert {(made.version, made.variant) for made in ids} == {(7, "specified in RFC 4122")}
        assert all(began - 1 < (made.int >> 80) / 1_000 < time.time() + 1 for made in ids)
    assert len({made.int & (1 << 62) - 1 for made in ids}) == len(ids)


def test_whoever_may_add_a_call_may_leave_its_id_to_the_table(records: Records) -> None:
    patient_id = records.patient()
    with records.database.as_role("service_role") as connection:
        assert connection.execute("insert into call_logs (patient_id) values (%s)", [patient_id]).rowcount == 1
