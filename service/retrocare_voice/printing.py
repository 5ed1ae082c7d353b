"""What the command line prints: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retrocare_voice.errors import RetrocareError

results = Console()
messages = Console(stderr=True)


def say(line: str) -> None:
    """Tell whoever waits what is going on; server notices about what exists already tell nothing."""
    if not line.startswith("NOTICE") or "skipping" not in line:
        messages.print(f"[dim]{escape(line)}[/dim]", highlight=False)


def complain(error: RetrocareError, about: str = "") -> None:
    """Say what was wrong, and what to do."""
    where = f"{about}: " if about else ""
    messages.print(f"[red]error[/red] {escape(where + str(error))} ({error.code})", highlight=False, soft_wrap=True)
    if error.hint:
        messages.print(f"      {escape(error.hint)}", highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=str))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Print rows as a table, in the given columns or all."""
    if not rows:
        return say("Nothing to show.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns or list(rows[0]):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(column), column) for column in columns or list(rows[0])))
    results.print(table)
    return None


def cell(value: object, column: str) -> str:
    """Write one value for people: scores with three digits, decibels and seconds with one, nothing for null."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else ""
        case float():
            return f"{value:.1f}" if column.startswith("snr") or column.endswith("seconds") else f"{value:.3f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case list():
            return ", ".join(str(item) for item in value)
    return escape(str(value))
