"""A trial as one page that needs nothing else: tables and plots, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from retrocare.calibration.evaluation import AtLevel, Rate
from retrocare.calibration.formulas import Numbers
from retrocare.calibration.simulation import Simulated
from retrocare.calibration.trial import Trial

WIDTH, HEIGHT = 560, 220
LEFT, BOTTOM, TOP, RIGHT = 44, 34, 12, 12
LOWEST, HIGHEST, BARS = -5.0, 10.0, 60  # deviates that the histograms show
TICKS = (0.001, 0.01, 0.1, 1.0)
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #6b7280; --line: #d5d9df;
        --own: #2563a8; --others: #b4541a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e8eb; --faint: #9aa3ad; --line: #363c44; --own: #6fb1f2; --others: #f0a067; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
       max-width: 60rem; padding: 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
small, figcaption, .interval { color: var(--faint); font-size: .85rem; }
figure { margin: 1rem 0; } svg { height: auto; max-width: 100%; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
.axis { stroke: var(--line); } .limit { stroke: var(--ink); stroke-dasharray: 4 3; }
.own { fill: var(--own); stroke: var(--own); } .others { fill: var(--others); stroke: var(--others); }
.bars { fill-opacity: .45; stroke-width: 1; } .curve { fill: none; stroke-width: 2; }
"""


def report_page(trial: Trial) -> str:
    """Write the page."""
    levels = trial.levels
    left_out = "".join(
        f"<li>{escape(person)}: {count} recordings can be judged, and four are needed</li>"
        for person, count in trial.left_out.items()
    )
    refused = "".join(f"<li>{count} {escape(reason)}</li>" for reason, count in sorted(trial.refused.items()))
    parts = [
        f"<p>{trial.people} people, {trial.recordings} recordings, the encoder {escape(trial.encoder)}. Everybody is"
        f" enrolled in up to {trial.splits} ways from three recordings; all others are judged as that person's calls,"
        f" and as calls of everybody else. The limit is {trial.limit:.2f}, nominally {100 * trial.false_rate:g} % of"
        " own calls; nothing is tuned on these recordings.</p>",
        f"<h2>Who is flagged</h2>{_table(levels)}",
        "<p><small>In brackets 95 % intervals (Wilson), in which a call counts once, however many ways to enrol it is"
        " in; calls of one person are more alike than the intervals assume.</small></p>",
        f"<h2>The fixed rule beside it</h2>{_fixed_table(levels)}",
        *(f"<h2>Deviations, {_name(level)}</h2>{_histogram(level)}" for level in levels),
        f"<h2>Missed against false</h2>{_trade_off(levels)}",
        f"<h2>Simulated years</h2>{_simulated(trial.simulated)}",
        f"<h2>Left out</h2><ul>{left_out}</ul>" if left_out else "",
        f"<h2>Recordings that cannot be judged</h2><ul>{refused}</ul>" if refused else "",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How well voices are told apart</title><style>{STYLE}</style></head><body>"
        f"<h1>How well voices are told apart</h1>{''.join(parts)}</body></html>\n"
    )


def _name(level: AtLevel) -> str:
    return "as recorded" if level.snr_db is None else f"noise mixed in at {level.snr_db} dB"


def _cell(rate: Rate | None) -> str:
    if rate is None:
        return "<td>-</td>"
    return (
        f'<td>{100 * rate.share:.2f} % <span class="interval">({100 * rate.low:.1f}-{100 * rate.high:.1f})</span></td>'
    )


def _written(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{one}</th>" for one in heads)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table(levels: Sequence[AtLevel]) -> str:
    heads = ("Calls", "own", "false alerts", "called another voice", "others'", "flagged", "named another voice")
    rows = [
        (
            f"<td>{_name(level)}</td>",
            f"<td>{len(level.own.deviate)}</td>",
            _cell(level.false_alerts),
            _cell(level.own_called_another),
            f"<td>{len(level.others.deviate)}</td>",
            _cell(level.flagged),
            _cell(level.another_voice),
            "<td>-</td>" if level.equal_error_rate is None else f"<td>{100 * level.equal_error_rate:.2f} %</td>",
        )
        for level in levels
    ]
    return _written((*heads, "equal error"), rows)


def _fixed_table(levels: Sequence[AtLevel]) -> str:
    rows = [
        (
            f"<td>{_name(level)}</td>",
            _cell(level.fixed_false_alerts),
            _cell(level.fixed_flagged),
            _cell(level.fixed_flagged_at_equal_false_alerts),
        )
        for level in levels
    ]
    return _written(("Calls", "false alerts", "flagged", "flagged at as many false alerts as above"), rows)


def _histogram(level: AtLevel) -> str:
    edges = np.linspace(LOWEST, HIGHEST, BARS + 1)
    own, others = (_shares(scores.deviate, edges) for scores in (level.own, level.others))
    highest = max(float(own.max()), float(others.max()), 1e-9)

    def x(value: float) -> float:
        return LEFT + (value - LOWEST) / (HIGHEST - LOWEST) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / highest * (HEIGHT - BOTTOM - TOP)

    def outline(shares: Numbers, kind: str) -> str:
        points = [f"{x(LOWEST):.1f},{y(0):.1f}"]
        for share, left, right in zip(shares, edges, edges[1:], strict=False):
            points += [f"{x(left):.1f},{y(share):.1f}", f"{x(right):.1f},{y(share):.1f}"]
        return f'<polygon class="bars {kind}" points="{" ".join([*points, f"{x(HIGHEST):.1f},{y(0):.1f}"])}"/>'

    ticks = "".join(
        f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick}</text>'
        for tick in range(-4, 11, 2)
    )
    limit = (
        f'<line class="limit" x1="{x(level.limit):.1f}" x2="{x(level.limit):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    )
    drawn = outline(own, "own") + outline(others, "others") + limit + ticks + _floor()
    return _figure(drawn, f"Deviations of own calls (blue) and others' (orange), {_name(level)}; dashed: the limit.")


def _shares(values: Numbers, edges: npt.NDArray[np.float64]) -> Numbers:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    found: Numbers = counts / max(1, len(values))
    return found


def _trade_off(levels: Sequence[AtLevel]) -> str:
    """Draw the share of others that is missed against the share of own calls that is flagged, both logarithmic."""

    def place(share: float) -> float:
        return float(math.log10(max(share, TICKS[0]) / TICKS[0]) / 3)

    def x(share: float) -> float:
        return LEFT + place(share) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - place(share) * (HEIGHT - BOTTOM - TOP)

    drawn = ""
    for n, level in enumerate(levels):
        if not len(level.own.deviate) or not len(level.others.deviate):
            continue
        false = np.logspace(-3, 0, 60)
        missed = [float(np.mean(level.others.deviate <= limit)) for limit in np.quantile(level.own.deviate, 1 - false)]
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(false, missed, strict=True))
        dashes = ("", "6 4", "2 3")[n % 3]
        drawn += f'<polyline class="curve own" stroke-dasharray="{dashes}" points="{points}"/>'
        drawn += f'<text x="{WIDTH - RIGHT}" y="{TOP + 14 * n + 10}" text-anchor="end">{_name(level)}'
        drawn += f"{': solid' if not dashes else ': dashed' if n == 1 else ': dotted'}</text>"
    for tick in TICKS:
        drawn += f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{100 * tick:g} %</text>'
        drawn += f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{100 * tick:g} %</text>'
    return _figure(drawn + _floor(), "Others' calls that are missed (up) where so many own calls are flagged (right).")


def _floor() -> str:
    return f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>'


def _figure(drawn: str, caption: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(caption)}">'
        f"{drawn}</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _simulated(found: Simulated) -> str:
    days = list(found.delays[0].found_within) if found.delays else []
    rows = [
        (
            f"<td>{delay.shift:g} radii</td>",
            f"<td>{'-' if delay.median_days is None else f'{delay.median_days:g}'}</td>",
            *(f"<td>{100 * share:.0f} %</td>" for share in delay.found_within.values()),
        )
        for delay in found.delays
    ]
    return (
        f"<p>No recording shows how days differ: the years of {found.patients} patients are simulated, with random days"
        f" added to these recordings. At limits for one alert a year there are {found.alerts_per_year:.2f} a year;"
        f" {100 * found.without_alert:.0f} % of patients have none.</p>"
        + _written(("A change that lasts", "median days", *(f"found within {day}" for day in days)), rows)
        + "<p><small>One radius is how far a clean call of ten seconds usually lies from its person's mean.</small></p>"
    )
