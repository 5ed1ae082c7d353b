"""A trial: people's own recordings are heard as the service hears calls, and it is counted who is flagged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrocare.audio.decode import Audio, decode
from retrocare.audio.speech import RecordingLimits
from retrocare.calibration import telephone
from retrocare.calibration.corpus import (
    AS_RECORDED,
    Call,
    Line,
    People,
    hear,
    heard_of,
    people_of,
    recorded_noises,
    seed,
)
from retrocare.calibration.document import Calibration
from retrocare.calibration.evaluation import AtLevel, FixedRule, Level, evaluate, limit_for
from retrocare.calibration.fitting import SAMPLES
from retrocare.calibration.simulation import Simulated, simulate
from retrocare.encoders.protocol import Encoder
from retrocare.errors import NotAssessable, Unprocessable

LEVELS_DB = (20, 10)
PEAK = 0.9
LEAST_PEOPLE = 2


@dataclass(frozen=True, eq=False)
class Trial:
    """Hold how people were told apart, and what was left out."""

    encoder: str
    people: int
    recordings: int
    splits: int
    false_rate: float
    limit: float
    levels: Sequence[AtLevel]
    simulated: Simulated
    left_out: Mapping[str, int]  # people with too few usable recordings, and how many they have
    refused: Mapping[str, int]  # recordings as they are that cannot be judged, by reason
    refused_with_noise: Mapping[int, Mapping[str, int]]  # the same of copies with noise, by level
    unknown_snr: int  # recordings as they are whose SNR cannot be told

    def as_json(self) -> dict[str, Any]:
        return {
            "people": self.people,
            "by_snr": [described(level) for level in self.levels],
            "encoder": self.encoder,
            "false_rate": self.false_rate,
            "limit": self.limit,
            "splits": self.splits,
            "recordings": self.recordings,
            "unknown_snr": self.unknown_snr,
            "left_out": dict(self.left_out),
            "not_assessable": dict(self.refused),
            "not_assessable_with_noise": {str(level): dict(found) for level, found in self.refused_with_noise.items()},
            "simulated": {
                "patients": self.simulated.patients,
                "alerts_per_year": self.simulated.alerts_per_year,
                "without_alert": self.simulated.without_alert,
                "delays": [
                    {"shift": one.shift, "median_days": one.median_days, "found_within_days": one.found_within}
                    for one in self.simulated.delays
                ],
            },
        }


def described(level: AtLevel) -> dict[str, Any]:
    """Describe a level for JSON; rates are null where there is no call."""
    rates = {
        "false_alert_rate": level.false_alerts,
        "flagged_rate": level.flagged,
        "another_voice_rate": level.another_voice,
        "own_called_another_rate": level.own_called_another,
        "fixed_false_alert_rate": level.fixed_false_alerts,
        "fixed_flagged_rate": level.fixed_flagged,
        "fixed_flagged_rate_at_equal_false_alerts": level.fixed_flagged_at_equal_false_alerts,
    }
    return {
        "snr_db": level.snr_db,
        "own_calls": len(level.own.deviate),
        "other_calls": len(level.others.deviate),
        **{name: found and found.share for name, found in rates.items()},
        "eer": level.equal_error_rate,
        "own_recordings": level.own.calls,
        "intervals": {name: found and [found.low, found.high] for name, found in rates.items()},
    }


def try_out(
    folder: Path,
    noise: Path | None,
    encoder: Encoder,
    limits: RecordingLimits,
    calibration: Calibration,
    fixed: FixedRule,
    *,
    false_rate: float,
    splits: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Trial:
    """Hear everybody once as recorded and once at each level of noise, and evaluate.

    Raises: BadRequest where a folder is missing or empty; Unprocessable where fewer than two people have enough
    recordings.
    """
    people = {name: files for name, files in people_of(folder).items() if (folder / name).is_dir()}
    calls, refused, refused_with_noise = _listen(people, noise, encoder, limits, progress)
    usable = Counter(call.person for call in calls if call.line == AS_RECORDED)
    left_out = {person: usable[person] for person in people if usable[person] <= SAMPLES}
    if len(people) - len(left_out) < LEAST_PEOPLE:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
        raise Unprocessable(
            f"{len(people) - len(left_out)} people have {SAMPLES + 1} or more recordings that can be judged",
            f"At least {LEAST_PEOPLE} are needed, in a folder each." + (f" Not judged: {told}." if told else ""),
            "too_few_people",
        )
    kept = [call for call in calls if call.person not in left_out]
    names: list[Level] = [None, *(LEVELS_DB if noise else ())]
    levels = {
        level: heard_of([call for call in kept if call.line.snr_db == level], encoder.dimension) for level in names
    }
    return Trial(
        encoder=encoder.id,
        people=len(people) - len(left_out),
        recordings=len(levels[None].recording),
        splits=splits,
        false_rate=false_rate,
        limit=limit_for(false_rate),
        levels=evaluate(levels, calibration, fixed, false_rate=false_rate, splits=splits),
        simulated=simulate(levels[None], calibration),
        left_out=left_out,
        refused=refused,
        refused_with_noise=refused_with_noise,
        unknown_snr=int(np.isnan(levels[None].snr_db).sum()),
    )


def _listen(
    people: People,
    noise: Path | None,
    encoder: Encoder,
    limits: RecordingLimits,
    progress: Callable[[int, int], object],
) -> tuple[list[Call], Counter[str], dict[int, Counter[str]]]:
    noises = {rate: recorded_noises(noise, rate) for rate in (8_000, 16_000)} if noise else {}
    calls: list[Call] = []
    refused: Counter[str] = Counter()
    with_noise: dict[int, Counter[str]] = {level: Counter() for level in LEVELS_DB} if noise else {}
    total, done = sum(map(len, people.values())), 0
    for person, files in people.items():
        for n, file in enumerate(files, 1):
            name = f"{person}/{n} {file.name}"
            try:
                audio = decode(file.read_bytes(), None, limits.maximum_call_seconds)
                calls.append(Call(person, name, AS_RECORDED, *hear(audio, encoder, limits)))
            except NotAssessable as reason:
                refused[reason.reason] += 1
            else:
                for level, counted in with_noise.items():
                    try:
                        mixed = _mixed(audio, noises[audio.sample_rate], name, level)
                        calls.append(Call(person, name, Line("mixed", level), *hear(mixed, encoder, limits)))
                    except NotAssessable as reason:
                        counted[reason.reason] += 1
            done += 1
            progress(done, total)
    return calls, refused, with_noise


def _mixed(audio: Audio, noises: Mapping[str, telephone.Noise], name: str, snr_db: int) -> Audio:
    """Add one of the noises, always the same for the same recording, at its own sampling rate."""
    random = seed(name)
    noise = noises[str(random.choice(list(noises)))](random, len(audio.samples))
    voice = audio.samples + telephone.at_level(noise, telephone.speech_level(audio.samples, audio.sample_rate), snr_db)
    voice = voice * np.float32(min(1, PEAK / np.abs(voice).max()))
    return decode(telephone.written(voice, audio.sample_rate, "FLOAT"), None, telephone.LONGEST_SECONDS)
