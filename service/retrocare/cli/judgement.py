"""The commands ``retrocare calibrate`` and ``retrocare evaluate``: what distances mean, and how well they tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retrocare.calibration import making
from retrocare.calibration.document import Calibration, read_calibration, shipped, text_of
from retrocare.calibration.evaluation import AtLevel, FixedRule, Rate
from retrocare.calibration.report import report_page
from retrocare.calibration.trial import Trial, described, try_out
from retrocare.checks.service import Service, opened_service
from retrocare.cli.console import Json, messages, print_json, print_rows, put, reported, say
from retrocare.database.client import Row
from retrocare.errors import ConfigurationError
from retrocare.settings import read_settings

FALSE_RATE = 0.0027  # of own calls, one in a year of calls
SPLITS = 20

EncoderName = Annotated[
    str | None, typer.Option("--encoder", help="An id, such as ge2e-v2, or a family. Default: RETROCARE_ENCODER.")
]
NoiseFolder = Annotated[Path | None, typer.Option("--noise", help="A folder with recordings of noise.")]


def calibrate(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR...", help="Folders of public speech, a folder a person in each.")
    ] = None,
    noise: NoiseFolder = None,
    population: Annotated[
        list[Path] | None, typer.Option(help="A folder with more people; one recording of each is enough.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the calibration to this file.")] = None,
    use: Annotated[
        bool, typer.Option("--use/--no-use", help="Store it, and judge by it from the next call on.")
    ] = True,
    archive: Annotated[
        bool, typer.Option("--archive", help="Make it of the stored history: 40 patients with 20 calls are needed.")
    ] = False,
    encoder: EncoderName = None,
    as_json: Json = False,
) -> None:
    """Measure what an encoder's distances mean, on public speech that is passed through a telephone with noise."""
    if archive == bool(folders):
        raise typer.BadParameter("Name folders of speech, or --archive for the stored history")
    tested: list[making.Tested] = []
    with reported(), opened(encoder) as service:
        used = service.inference.encoder
        if archive:
            document = service.database.calibrate_archive(used.id)
        else:
            with shown("Listening") as progress:
                spoken = making.listen([*(folders or []), *(population or [])], noise, used, progress)
            tell_refused(spoken.refused)
            say("Fitting, and testing each fit on people who are not in it ...")
            provenance = {"made_by": command(folders or [], noise, population)}
            document = making.make(spoken, used, provenance).document()
            tested = making.cross_check(spoken, used, fixed_rule(service), FALSE_RATE, SPLITS)
        if out:
            out.write_text(text_of(document))
            say(f"Written to {out}.")
        stored = service.database.add_calibration(used.id, document) if use else None
        if stored is not None:
            service.database.use_calibration(used.id, stored)
    if as_json:
        checks = [
            {
                "corpus": one.corpus,
                "fitted": one.fitted,
                "people": one.people,
                "by_snr": list(map(described, one.levels)),
            }
            for one in tested
        ]
        return print_json({**document, "id": stored, "tested": checks})
    show_calibration(read_calibration(document))
    for one in tested:
        put(f"\n{one.corpus}: {one.people} people, fitted to {one.fitted}")
        show_levels(one.levels)
    if stored is None:
        say("Not stored (--no-use).")
    else:
        say(f"Calls under {document['encoder']} are judged by it from now on; it is calibration {stored}.")
    return None


def evaluate(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Recordings, a folder a person; used as they are.")
    ] = None,
    noise: NoiseFolder = None,
    false_rate: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="The share of own calls that may be flagged; it sets the limits.")
    ] = FALSE_RATE,
    splits: Annotated[int, typer.Option(min=1, max=100, help="How many ways to enrol each person.")] = SPLITS,
    report: Annotated[Path | None, typer.Option(help="Write a page with plots to this file.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Say what the stored history supports.")] = False,
    encoder: EncoderName = None,
    as_json: Json = False,
) -> None:
    """Show how well voices are told apart: in recordings of yours, as they are and with noise."""
    if history == (folder is not None):
        raise typer.BadParameter("Name a folder of recordings, or --history for the stored calls")
    with reported(), opened(encoder) as service:
        if folder is None:
            return show_history(service.database.archive_coverage(service.encoder), as_json)
        database, used = service.database, service.inference.encoder
        calibration = calibration_of(service)
        with shown("Listening") as progress:
            trial = try_out(
                folder,
                noise,
                used,
                database.limits(used.id),
                calibration,
                fixed_rule(service),
                false_rate=false_rate,
                splits=splits,
                progress=progress,
            )
        tell_refused(trial.refused)
        for person, count in trial.left_out.items():
            say(f"{person} is left out: {count} recordings can be judged, and four are needed.")
        if report:
            report.write_text(report_page(trial))
            say(f"Written to {report}.")
    if as_json:
        return print_json(trial.as_json())
    show_trial(trial)
    return None


def show_history(coverage: Row, as_json: bool) -> None:
    """Say of how many stored calls a calibration can be made."""
    if as_json:
        return print_json(coverage)
    print_rows([{name: value for name, value in coverage.items() if name != "missing"}])
    for lack in coverage["missing"]:
        say(f"Missing for a calibration of the stored history: {lack}.")
    if not coverage["missing"]:
        say("`retrocare calibrate --archive` makes a calibration of it.")
    return None


@contextmanager
def opened(encoder: str | None) -> Iterator[Service]:
    settings = read_settings().model_copy(update={"encoder": encoder} if encoder else {})
    with opened_service(settings, say) as service:
        yield service


def calibration_of(service: Service) -> Calibration:
    """Return the calibration in use, else the one that comes with the encoder. Raises: ConfigurationError."""
    document = service.database.calibration(service.encoder) or shipped(service.encoder)
    if document is None:
        raise ConfigurationError(
            f"{service.encoder} has no calibration: nobody knows what its distances mean",
            "Make one of public speech, a folder a person: `retrocare calibrate DIR`.",
            "no_calibration",
        )
    return read_calibration(document)


def fixed_rule(service: Service) -> FixedRule:
    policy = service.database.policy(service.encoder)
    return FixedRule(policy["medium_above"], policy["noisy_below_snr_db"], policy["noise_reduction"])


def command(folders: Sequence[Path], noise: Path | None, population: Sequence[Path] | None) -> str:
    """Write the command as it was given, with the names of folders alone."""
    words = ["retrocare calibrate", *(folder.resolve().name for folder in folders)]
    for further in population or ():
        words += ["--population", further.resolve().name]
    return " ".join([*words, "--noise", noise.resolve().name] if noise else words)


def tell_refused(refused: Any) -> None:
    if refused:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
        say(f"Recordings that cannot be judged: {told}.")


def show_calibration(calibration: Calibration) -> None:
    rows: list[Row] = []
    for space, bins in (("raw", calibration.raw), ("whitened", calibration.whitened or [])):
        rows += [
            {
                "distances": space,
                "snr_from": f"{one.snr_from:g}",
                "call_variance": one.call_variance,
                "speech_variance": one.speech_variance,
                "log_bias": one.log_bias,
                "log_deviation": one.log_deviation,
                "other_log_mean": one.other_log_mean,
                "other_log_deviation": one.other_log_deviation,
            }
            for one in bins
        ]
    print_rows(rows)
    prior = calibration.prior
    put(f"prior: degrees {prior.degrees:.1f}, variance {prior.variance:.3f}, mean_variance {prior.mean_variance:.3f}")
    if calibration.projection is None:
        say("There were too few people for a projection: noisy calls are judged by raw distances.")


def show_levels(levels: Sequence[AtLevel]) -> None:
    """Print a table with a line a level of noise."""
    print_rows([row_of(level) for level in levels])


def row_of(level: AtLevel) -> Row:
    return {
        "noise": "as recorded" if level.snr_db is None else f"{level.snr_db} dB",
        "own": len(level.own.deviate),
        "false_alerts": share(level.false_alerts),
        "others": len(level.others.deviate),
        "flagged": share(level.flagged),
        "another_voice": share(level.another_voice),
        "own_called_another": share(level.own_called_another),
        "equal_error": "" if level.equal_error_rate is None else f"{level.equal_error_rate:.1%}",
        "fixed_rule_false": share(level.fixed_false_alerts),
        "fixed_rule_flagged": share(level.fixed_flagged),
        "fixed_rule_at_equal_false": share(level.fixed_flagged_at_equal_false_alerts),
    }


def share(rate: Rate | None) -> str:
    """Write a rate in per cent, with its interval."""
    return "" if rate is None else f"{100 * rate.share:.2f} % ({100 * rate.low:.1f}-{100 * rate.high:.1f})"


def show_trial(trial: Trial) -> None:
    put(
        f"{trial.people} people, {trial.recordings} recordings, up to {trial.splits} enrolments of three;"
        f" the limit is {trial.limit:.2f}, nominally {100 * trial.false_rate:g} % of own calls"
    )
    show_levels(trial.levels)
    simulated = trial.simulated
    put(
        f"Simulated years of {simulated.patients} patients, at limits for one alert a year (days are simulated):"
        f" {simulated.alerts_per_year:.2f} alerts a year, {100 * simulated.without_alert:.0f} % of patients have none"
    )
    for delay in simulated.delays:
        within = ", ".join(f"{100 * found:.0f} % within {days}" for days, found in delay.found_within.items())
        put(f"  a lasting change of {delay.shift:g} radii is found: {within} days")


@contextmanager
def shown(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many recordings are done: a bar on a terminal, elsewhere a line at every tenth."""
    if not messages.is_terminal:

        def tell(done: int, total: int) -> None:
            if 10 * done // total > 10 * (done - 1) // total:
                say(f"{label}: {done} of {total}")

        yield tell
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
