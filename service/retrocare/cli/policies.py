"""The commands ``retrocare policy``: the thresholds and limits of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from retrocare.cli.console import Json, find, opened, print_json, print_rows, say, show
from retrocare.database.client import Database
from retrocare.errors import BadRequest, NotFound

app = typer.Typer(no_args_is_help=True, help="Thresholds and limits, a set for each encoder.")

Encoder = Annotated[str | None, typer.Option(help="Whose, such as ge2e-v1; the active one's by default.")]


@app.command("show")
def show_policy(encoder: Encoder = None, as_json: Json = False) -> None:
    """Show the thresholds and limits."""
    with opened() as database:
        policy = database.policy(chosen(database, encoder))
    if as_json:
        return print_json(policy)
    thresholds = sorted((name for name in policy if name.endswith("_above")), key=lambda name: policy[name])
    others = sorted(policy.keys() - thresholds)
    return print_rows([{"name": name, "value": str(policy[name])} for name in (*thresholds, *others)])


@app.command("set")
def set_policy(
    changes: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Such as medium_above=0.3.")],
    encoder: Encoder = None,
    as_json: Json = False,
) -> None:
    """Change thresholds or limits from the next call on; all of one command change together."""
    given = named_values(changes)
    with opened() as database:
        whose = chosen(database, encoder)
        before = database.policy(whose)
        try:
            after = database.set_policy(whose, {name: str(value) for name, value in given.items()})
        except BadRequest as refused:
            if refused.code == "bad_value":
                raise BadRequest("A number of samples is a whole number", "", "bad_value") from None
            raise
    rows = [{"name": name, "before": str(before[name]), "after": str(after[name])} for name in given]
    print_json(after) if as_json else print_rows(rows)
    say(f"Calls under {whose} are judged so from now on; scores that are stored stay as they are.")


@app.command("replay")
def replay_policy(
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE...]", help="Such as warnings_per_year=4 or rule=fixed.")
    ] = None,
    patient: Annotated[str | None, typer.Option("--patient", help="Only this patient's calls: id or name.")] = None,
    organisation: Annotated[UUID | None, typer.Option(help="Only the calls of this organisation's patients.")] = None,
    as_json: Json = False,
) -> None:
    """Say what another policy would have done with the stored calls, beside what happened; nothing is stored."""
    given = named_values(changes or [])
    with opened() as database:
        whose = find(database, patient) if patient else None
        say("Judging the stored calls once more; a million take about a minute.")
        found = database.replay_policy(whose, organisation, given)
        if not found["calls"]:
            raise NotFound(
                "No stored call can be judged again",
                "Only calls that were measured with a calibration can.",
                "nothing_to_replay",
            )
    if as_json:
        return print_json(found)
    say(f"{found['calls']} calls of {found['patients']} patients, {found['patient_years']} patient-years.")
    return print_rows(
        [
            {"a year and patient": f"{what}, {level}", **{whose: found[whose][key][level] for whose in REPLAYED}}
            for what, key in (("messages", "alerts_per_year"), ("episodes", "episodes_per_year"))
            for level in ("warning", "emergency", "critical")
        ]
        + [
            {"a year and patient": shown, **{whose: found[whose][key] for whose in REPLAYED}}
            for key, shown in LEADS.items()
        ]
    )


REPLAYED = ("replayed", "recorded")
LEADS = {
    "health_flags": "health flags",
    "health_flags_preceded": "of these, preceded by an alert",
    "median_lead_days": "days from the alert to the flag",
}


def warnings(
    per_year: Annotated[float | None, typer.Argument(help="1, 4 or 12; without it, the choices are shown.")] = None,
    patient: Annotated[str | None, typer.Option("--patient", help="For this patient's family: id or name.")] = None,
    as_json: Json = False,
) -> None:
    """Choose how many warnings a year may come by chance: for a patient, or for all whose families did not choose."""
    with opened() as database:
        whose = find(database, patient) if patient else None
        if per_year is not None:
            database.set_warnings_per_year(whose, per_year)
        choices = database.warning_budgets(whose)
    show(choices, as_json)


def named_values(changes: Sequence[str]) -> dict[str, int | float | str]:
    """Read NAME=VALUE words."""
    given = {}
    for change in changes:
        name, separator, value = change.partition("=")
        if not separator:
            raise typer.BadParameter(f"{change!r} is not NAME=VALUE")
        given[name] = parsed(name, value)
    return given


def parsed(name: str, value: str) -> int | float | str:
    """Read a value of a policy: a number, or a word."""
    word = value.strip()
    if word.lstrip("+-").isdigit():
        return int(word)
    try:
        return float(word)
    except ValueError:
        if word.isidentifier():
            return word
        raise typer.BadParameter(f"{name}={value!r} is neither a number nor a word") from None


def chosen(database: Database, encoder: str | None) -> str:
    found = encoder or database.active_encoder()
    if found is None:
        raise NotFound("No encoder is active yet", "One becomes so when the service first starts.", "unknown_encoder")
    return found
