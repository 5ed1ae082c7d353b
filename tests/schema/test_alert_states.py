"""Whatever caregivers, strangers, calls and time do to an alert, in any order: it is in a state that it may be in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg.rows import dict_row

from fixtures.databases import Server
from fixtures.records import Records, at_cosine

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
SIMILARITIES = {"warning": 0.7, "emergency": 0.5, "critical": 0.1}
LEVELS = list(SIMILARITIES)
# What each change may turn each state into; None: there was no unresolved alert.
MAY: dict[str, set[tuple[str | None, str]]] = {
    "opened": {(None, "open")},
    "raised": {(state, "open") for state in ("open", "escalated", "acknowledged", "snoozed")},
    "repeated": {(state, state) for state in ("open", "escalated", "acknowledged", "snoozed")},
    "escalated": {("open", "escalated")},
    "reminded": {("escalated", "escalated")},
    "woken": {("snoozed", "open")},
    "reopened": {("acknowledged", "open")},
    "acknowledged": {(state, "acknowledged") for state in ("open", "escalated", "snoozed")},
    "snoozed": {(state, "snoozed") for state in ("open", "escalated", "acknowledged", "snoozed")},
    "resolved": {(state, "resolved") for state in ("open", "escalated", "acknowledged", "snoozed")},
}
BY_PEOPLE = {"acknowledged", "snoozed", "resolved"}


def machine(server: Server) -> type[RuleBasedStateMachine]:
    class Episodes(RuleBasedStateMachine):
        """One patient, caregivers of every role, a stranger, and a clock."""

        @initialize()
        def begin(self) -> None:
            self.cloned = server.clone(server.migrated_template)
            self.records = Records(self.cloned.__enter__())
            self.records.register()
            self.patient_id = self.records.patient()
            self.records.judge(self.patient_id)
            self.people: dict[str, UUID] = {
                role: self.records.caregiver(self.patient_id, role)
                for role in ("primary", "family", "clinician", "viewer")
            }
            self.people["stranger"] = self.records.caregiver(self.records.patient())
            self.clock = START
            self.seen_changes = 0
            self.state: str | None = None
            self.level: str | None = None

        def teardown(self) -> None:
            if hasattr(self, "cloned"):
                self.cloned.__exit__(None, None, None)

        def alert(self) -> dict[str, Any] | None:
            found = self.records.rows("select * from public.caregiver_alerts order by opened_at desc, id limit 1")
            return found[0] if found else None

        def act(self, who: str, statement: str, *values: object) -> str | None:
            """Act as a signed-in person; return the SQLSTATE of a refusal."""
            claims = f'{{"role": "authenticated", "sub": "{self.people[who]}"}}'
            with self.records.database.owner.cursor(row_factory=dict_row) as cursor:
                cursor.execute("select set_config('request.jwt.claims', %s, false)", [claims])
                try:
                    cursor.execute(f"select * from care.{statement}".encode(), values)
                except psycopg.Error as error:
                    return error.sqlstate
            return None

        def expect(self, who: str, refusal: str | None, otherwise: str | None) -> None:
            if who == "stranger":
                assert refusal == "PT404"
            elif who == "viewer":
                assert refusal == "PT403"
            else:
                assert refusal == otherwise

        @rule(level=st.sampled_from([*LEVELS, "usual"]))
        def call(self, level: str) -> None:
            claim = self.records.open(self.records.call_log(self.patient_id, self.clock))
            self.records.complete(claim, at_cosine(SIMILARITIES.get(level, 1.0)), at=self.clock)

        @rule(minutes=st.sampled_from([1, 6, 16, 31, 250, 500, 5000, 45000]))
        def time_passes(self, minutes: int) -> None:
            """Let the jobs run when something is due, as they would every few seconds, until so many minutes are over.

            What is due again and again is followed for ten times.
            """
            until = self.clock + timedelta(minutes=minutes)
            for _ in range(10):
                due = self.records.one(
                    "select min(next_change_at) from public.caregiver_alerts where resolved_at is null"
                )
                self.clock = min(until, max(self.clock, due or until))
                for job in ("advance_alerts", "note_silences", "end_silences"):
                    assert self.records.one("select care.run_job(%s, %s)", job, self.clock) >= 0
                if self.clock >= until:
                    break

        @rule(who=st.sampled_from(["primary", "family", "clinician", "viewer", "stranger"]))
        def acknowledge(self, who: str) -> None:
            if alert := self.alert():
                refusal = self.act(who, "acknowledge_alert(%s, %s)", alert["id"], self.clock)
                self.expect(who, refusal, "PT409" if alert["state"] == "resolved" else None)

        @rule(
            who=st.sampled_from(["primary", "family", "viewer", "stranger"]),
            minutes=st.sampled_from([-5, 0, 20, 90, 2000, 99999]),
        )
        def snooze(self, who: str, minutes: int) -> None:
            if alert := self.alert():
                until = self.clock + timedelta(minutes=minutes)
                refusal = self.act(who, "snooze_alert(%s, %s, %s)", alert["id"], until, self.clock)
                most = {"warning": 72, "emergency": 4, "critical": 1}[alert["level"]] * 60
                allowed = None if 0 < minutes <= most else "PT400"
                self.expect(who, refusal, "PT409" if alert["state"] == "resolved" else allowed)

        @rule(
            who=st.sampled_from(["primary", "clinician", "viewer", "stranger"]),
            outcome=st.sampled_from(["ill", "not_ill", "other_person", "wrong_recording", "other", None]),
        )
        def resolve(self, who: str, outcome: str | None) -> None:
            if alert := self.alert():
                refusal = self.act(
                    who, "resolve_alert(%s, %s::public.alert_outcome, 'seen', %s)", alert["id"], outcome, self.clock
                )
                caregiver = self.records.rows(
                    "select id from public.patient_caregivers where user_id = %s and patient_id = %s",
                    self.people[who], alert["patient_id"],
                )  # fmt: skip
                is_same = alert["state"] == "resolved" and (alert["outcome"], [{"id": alert["resolved_by"]}]) == (
                    outcome, caregiver,
                )  # fmt: skip
                otherwise = "PT400" if outcome is None else None
                if outcome and alert["state"] == "resolved" and not is_same:
                    otherwise = "PT409"
                self.expect(who, refusal, otherwise)

        @rule(fails=st.booleans())
        def messages_are_sent(self, fails: bool) -> None:
            for delivery in self.records.claim_deliveries(self.clock):
                held = {name: delivery[name] for name in ("delivery_id", "lease_token")}
                more: dict[str, Any] = {"code": "no", "message": "", "is_permanent": False} if fails else {}
                self.records.rpc("fail_delivery" if fails else "finish_delivery", **held, **more, at=self.clock)

        @invariant()
        def every_change_was_allowed(self) -> None:
            if not hasattr(self, "records"):
                return
            changes = self.records.rows("select * from public.alert_changes order by ctid")
            unresolved = self.records.rows("select * from public.caregiver_alerts where resolved_at is null")
            assert len(unresolved) <= 1
            state = self.state
            for change in changes[self.seen_changes :]:
                kind = change["change"]
                after = next(after for before, after in MAY[kind] if before == state)
                assert (change["actor_id"] is not None) == (kind in BY_PEOPLE)
                assert change["actor_id"] not in (self.people["viewer"], self.people["stranger"])
                assert change["changed_at"] <= self.clock
                if kind in ("opened", "raised"):
                    rises = self.level is None or LEVELS.index(change["level"]) > LEVELS.index(self.level)
                    assert rises or kind == "opened"
                    self.level = change["level"]
                state = None if after == "resolved" else after
                self.level = None if after == "resolved" else self.level
            self.seen_changes, self.state = len(changes), state
            assert [alert["state"] for alert in unresolved] == ([state] if state else [])
            for alert in unresolved:
                assert alert["level"] == self.level

        @invariant()
        def no_unresolved_alert_is_silent_for_longer_than_its_level_allows(self) -> None:
            if not hasattr(self, "records"):
                return
            for alert in self.records.rows("select * from public.caregiver_alerts where resolved_at is null"):
                allowed = timedelta(hours={"warning": 168, "emergency": 24, "critical": 4}[alert["level"]])
                # What waits for the morning waits for the morning after that.
                allowed += timedelta(hours=10) if alert["level"] == "warning" else timedelta()
                spoken = self.records.one(
                    """select max(changed_at) from public.alert_changes
                       where alert_id = %s and change <> 'repeated'""",
                    alert["id"],
                )
                assert alert["next_change_at"] <= spoken + max(
                    allowed, timedelta(hours=72 if alert["state"] == "snoozed" else 0)
                )
                assert self.clock <= alert["next_change_at"] or self.clock - spoken <= allowed

        @invariant()
        def nobody_is_told_the_same_change_twice_or_of_what_is_over(self) -> None:
            if not hasattr(self, "records"):
                return
            late = self.records.one(
                """select count(*) from care.deliveries as d
                   join public.alert_changes as c on c.id = d.change_id
                   join public.alert_changes as answer on answer.alert_id = c.alert_id
                   where d.state = 'accepted' and c.change not in ('acknowledged', 'resolved')
                       and answer.change in ('acknowledged', 'resolved') and answer.changed_at > c.changed_at
                       and d.finished_at > answer.changed_at
                       and not exists (select from public.alert_changes as again where again.alert_id = c.alert_id
                           and again.change in ('raised', 'woken', 'reopened')
                           and again.changed_at > answer.changed_at)"""
            )
            assert late == 0

    return Episodes


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_no_sequence_of_calls_people_and_time_reaches_a_forbidden_state(server: Server) -> None:
    run_state_machine_as_test(
        machine(server),
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
