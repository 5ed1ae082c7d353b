"""The commands ``retrocare policy``: the thresholds and limits of an encoder."""

from __future__ import annotations

from typing import Annotated

import typer

from retrocare.cli.console import Json, opened, print_json, print_rows, say
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
    given = {}
    for change in changes:
        name, separator, value = change.partition("=")
        try:
            given[name] = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            raise typer.BadParameter(f"{change!r} is not NAME=NUMBER") from None
        if not separator:
            raise typer.BadParameter(f"{change!r} is not NAME=NUMBER")
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


def chosen(database: Database, encoder: str | None) -> str:
    found = encoder or database.active_encoder()
    if found is None:
        raise NotFound("No encoder is active yet", "One becomes so when the service first starts.", "unknown_encoder")
    return found
