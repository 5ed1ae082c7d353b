"""The commands ``retrocare key``: which machines may call the service, and for what."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from retrocare.api.auth import SCOPES, hash_of
from retrocare.cli.console import Json, Yes, confirm, naming, opened, say, show
from retrocare.errors import NotFound

SHOWN = ("name", "scopes", "created_at", "last_used_at", "revoked_at")

app = typer.Typer(no_args_is_help=True, help="The machines that may call the service.")


@app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[list[str], typer.Option(help="embed, check, read or admin; several times for several.")],
    as_json: Json = False,
) -> None:
    """Make a key and show it, only this once."""
    if unknown := [given for given in scope if given not in SCOPES]:
        raise typer.BadParameter(f"--scope is one of {', '.join(SCOPES)}, not {unknown[0]}")
    key = f"rcv_{secrets.token_urlsafe(32)}"
    with opened() as database, naming(a_name_stands_for_one_key_of_an_organisation=name):
        is_first = not database.api_keys()
        row = database.add_api_key(name, scope, hash_of(key))
    show([{"key": key} | row], as_json, ("key", "name", "scopes"))
    say("It is not shown again: only its hash is kept.")
    if is_first:
        say("It is the first key: from now on every request to the service needs one.")


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the keys: whose they are, what they allow, when they were last used."""
    with opened() as database:
        show(database.api_keys(), as_json, SHOWN)


@app.command("revoke")
def revoke_key(name: str, yes: Yes = False, as_json: Json = False) -> None:
    """Refuse a key from the next request on."""
    with opened() as database:
        standing = next((key for key in database.api_keys() if key["name"] == name and not key["revoked_at"]), None)
        if standing is None:
            raise NotFound(f"No key that stands is called {name!r}", "`retrocare key list` shows them.", "unknown_key")
        used = f"last used {standing['last_used_at']:%Y-%m-%d %H:%M}" if standing["last_used_at"] else "never used"
        goes = [f"The key of {name} allows {', '.join(standing['scopes'])} and was {used}."]
        confirm("Refuse it from now on? It cannot be undone.", goes, yes)
        database.revoke_api_key(name)
        show([{"revoked": name}], as_json)
        say(f"The key of {name} is refused from now on.")
