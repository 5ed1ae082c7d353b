"""The parameters of an encoder, estimated from people who are known: how far calls of one person and of two are apart.

Whitened distances are taken among people whom the projection that whitens them has not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from retrocare.calibration.corpus import AS_RECORDED, Call
from retrocare.calibration.document import Calibration
from retrocare.calibration.formulas import (
    Bin,
    Numbers,
    Prior,
    Projection,
    anchor_variance,
    expected_distance,
    log_distance,
)
from retrocare.encoders.embedding import unit
from retrocare.errors import Unprocessable

SNR_FROM = (25.0, 15.0, 8.0)  # of the bins; a recording that is noisier is not judged
SAMPLES = 3  # of an enrolment
SPLITS = 10  # enrolments that are tried for each person
LEAST_SECONDS = 3.0  # of speech that is judged
PIECE_WINDOWS = (2, 4)  # a call is also cut into pieces of so many windows
MOST_PIECES = 3  # of each length
FOLDS = 8
LEAST_REPEATED, LEAST_OF_CORPUS, LEAST_SPEAKERS = 8, 3, 50
DIMENSIONS = 48
RIDGE = 1.0  # of the mean variance within people, added to it in every direction
FLATTENING = 0.1  # what tells people apart best counts less than it would by Fisher: strangers differ elsewhere
FEWEST_DEGREES, MOST_DEGREES = 6.0, 20.0
LEAST_MEAN_VARIANCE = 0.05
ROUNDS = 8

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Hold calls and pieces of calls in arrays of one length; ``share`` is what each counts among its recording's."""

    vectors: npt.NDArray[np.float32]  # (pieces, dimension)
    person: npt.NDArray[np.str_]
    recording: npt.NDArray[np.str_]
    speech_seconds: Numbers
    snr_db: Numbers  # NaN where it is unknown
    telephone: npt.NDArray[np.str_]
    is_recorded: Mask  # without noise of ours
    is_whole: Mask
    share: Numbers

    def where(self, mask: Mask | npt.NDArray[np.intp]) -> Pieces:
        return Pieces(**{one.name: getattr(self, one.name)[mask] for one in fields(self)})

    @property
    def bin(self) -> npt.NDArray[np.intp]:
        """Return which of SNR_FROM each belongs to, the lowest where the SNR is unknown."""
        return np.where(self.snr_db >= SNR_FROM[0], 0, np.where(self.snr_db >= SNR_FROM[1], 1, 2))

    @property
    def is_judged(self) -> Mask:
        judged: Mask = (self.speech_seconds >= LEAST_SECONDS) & ~(self.snr_db < SNR_FROM[-1])
        return judged

    @property
    def can_enrol(self) -> Mask:
        return self.is_judged & self.is_whole & self.is_recorded


def pieces_of(calls: Sequence[Call], window_seconds: float) -> Pieces:
    """Cut calls into pieces; as recorded and at each level of noise, a recording counts the same."""
    rows: list[tuple[Any, ...]] = []
    counts: dict[tuple[str, str, int | None], int] = {}
    for call in calls:
        key = (call.recording, call.telephone, call.line.snr_db)
        for part, is_whole in _parts(len(call.windows)):
            seconds = call.speech_seconds if is_whole else (part.stop - part.start) * window_seconds
            snr_db = np.nan if call.snr_db is None else call.snr_db
            named = (call.person, call.recording, call.telephone)
            known = (*named, seconds, snr_db, call.line == AS_RECORDED, is_whole, key)
            rows.append((call.vector(part), *known))
            counts[key] = counts.get(key, 0) + 1
    vectors, person, recording, telephone, seconds_, snr, is_recorded, whole, keys = zip(*rows, strict=True)
    return Pieces(
        vectors=np.array(vectors),
        person=np.array(person),
        recording=np.array(recording),
        telephone=np.array(telephone),
        speech_seconds=np.array(seconds_, np.float64),
        snr_db=np.array(snr, np.float64),
        is_recorded=np.array(is_recorded, bool),
        is_whole=np.array(whole, bool),
        share=np.array([1 / counts[key] for key in keys]),
    )


def _parts(windows: int) -> Iterator[tuple[slice, bool]]:
    yield slice(0, windows), True
    for size in PIECE_WINDOWS:
        if size < windows:
            yield from ((slice(n * size, (n + 1) * size), False) for n in range(min(MOST_PIECES, windows // size)))


def fit(
    encoder: str,
    corpora: Sequence[Pieces],
    further: Pieces | None,
    provenance: Mapping[str, Any],
    least_repeated: int = LEAST_REPEATED,
) -> Calibration:
    """Estimate the parameters of an encoder; ``further`` are people who serve the projection alone.

    Deviations are those of people, from what was fitted to people of other corpora (or, of one corpus, to others).
    Raises: Unprocessable where too few people have enough recordings.
    """
    known = joined(corpora)
    repeated = repeated_people(known)
    if len(repeated) < least_repeated:
        raise Unprocessable(
            f"{len(repeated)} people have {SAMPLES + 1} or more recordings that can be judged, as recorded",
            f"At least {least_repeated} are needed: name a folder with more people, or with more recordings of each.",
            "too_few_people",
        )
    strata = _strata(corpora, repeated)
    raw, own = fit_bins(_by_telephone(known), strata)
    whitened = projection = None
    if len(np.unique(known.person)) >= LEAST_SPEAKERS:
        unseen = [one for fold in _whitened_unseen(known, further) for one in _by_telephone(fold)]
        whitened, _ = fit_bins(unseen, strata)
        projection = fit_projection(known, further)
    return Calibration(encoder, provenance, raw, fit_prior(own), whitened, projection)


def joined(parts: Sequence[Pieces]) -> Pieces:
    return Pieces(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Pieces)})


def repeated_people(pieces: Pieces) -> list[str]:
    """List the people with more recordings than an enrolment takes."""
    known = pieces.where(pieces.can_enrol)
    recordings = set(zip(known.person.tolist(), known.recording.tolist(), strict=True))
    counts = Counter(person for person, _ in recordings)
    return sorted(person for person, count in counts.items() if count > SAMPLES)


def _strata(corpora: Sequence[Pieces], repeated: Sequence[str]) -> dict[str, int]:
    """Divide the people with enough recordings: by corpus where several have enough of them, else in two."""
    large = [people for people in map(repeated_people, corpora) if len(people) >= LEAST_OF_CORPUS]
    if len(large) < 2:
        return {person: n % 2 for n, person in enumerate(repeated)}
    of_large = {person: stratum for stratum, people in enumerate(large) for person in people}
    return {person: of_large.get(person, 0) for person in repeated}


def _by_telephone(pieces: Pieces) -> list[Pieces]:
    """Separate calls over different telephones: nobody is compared with somebody over another."""
    return [pieces.where(pieces.telephone == used) for used in np.unique(pieces.telephone)]


def _whitened_unseen(known: Pieces, further: Pieces | None) -> Iterator[Pieces]:
    """Whiten everybody by a projection that was fitted without them; yield the groups that share one."""
    repeated = repeated_people(known)
    people = [*repeated, *sorted(set(known.person) - set(repeated))]
    fold_of = {person: n % FOLDS for n, person in enumerate(people)}
    folds = np.array([fold_of[person] for person in known.person])
    for fold in range(FOLDS):
        unseen = known.where(folds == fold)
        others = further and further.where(~np.isin(further.recording, unseen.recording))
        yield replace(unseen, vectors=fit_projection(known.where(folds != fold), others).whiten(unseen.vectors))


def fit_projection(known: Pieces, further: Pieces | None = None) -> Projection:
    """Find the directions in which people differ most for how much calls of one person differ, noisy ones included.

    Source: R. A. Fisher, The use of multiple measurements in taxonomic problems, 1936; everybody counts the same.
    """
    both = [known] if further is None else [known, further]
    vectors = np.concatenate([one.vectors for one in both]).astype(np.float64)
    people, of_people = np.unique(np.concatenate([one.person for one in both]), return_inverse=True)
    share = (1 / np.bincount(of_people))[of_people]
    means = np.zeros((len(people), vectors.shape[1]))
    np.add.at(means, of_people, vectors * share[:, np.newaxis])
    deviations = vectors - means[of_people]
    within = (deviations * share[:, np.newaxis]).T @ deviations / len(people)
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    centre = means.mean(axis=0)
    between = np.cov(means.T, bias=True)
    inverse = np.linalg.inv(np.linalg.cholesky(within))
    ratios, directions = np.linalg.eigh(inverse @ between @ inverse.T)
    best = np.argsort(-ratios)[:DIMENSIONS]
    weights = directions[:, best].T @ inverse * (ratios[best, np.newaxis] ** -FLATTENING)
    return Projection(weights, -weights @ centre)


@dataclass(frozen=True, eq=False)
class Compared:
    """Hold the logarithms of distances of calls to one enrolment; ``anchor_*`` are its samples."""

    person: str
    anchor_bin: npt.NDArray[np.intp]
    anchor_seconds: Numbers
    log_distances: Numbers
    bin: npt.NDArray[np.intp]
    speech_seconds: Numbers
    share: Numbers
    recording: npt.NDArray[np.str_]
    is_own: Mask

    def residuals(self, call: Numbers, speech: Numbers) -> Residuals:
        """Return by how much farther than expected the person's own calls are."""
        of_anchor = anchor_variance(call[self.anchor_bin] + speech[self.anchor_bin] / self.anchor_seconds)
        variance = call[self.bin] + speech[self.bin] / self.speech_seconds
        values = self.log_distances - np.log(expected_distance(variance, of_anchor))
        own = self.is_own
        return Residuals(self.person, values[own], self.bin[own], self.share[own], self.recording[own])


@dataclass(frozen=True, eq=False)
class Residuals:
    """Hold by how much one person's calls are farther from one enrolment than was expected, in logarithms."""

    person: str
    values: Numbers
    bin: npt.NDArray[np.intp]
    share: Numbers
    recording: npt.NDArray[np.str_]


def fit_bins(groups: Sequence[Pieces], strata: Mapping[str, int]) -> tuple[list[Bin], list[Residuals]]:
    """Estimate every bin from distances within groups of people; deviations are from what other strata say.

    Raises: Unprocessable where nothing was heard at one of the levels.
    """
    compared = [one for group in groups for one in _compared(group)]
    pairs = [(person, pair) for group in groups for person in repeated_people(group) for pair in _pairs(group, person)]
    call, speech = _fit_variances([pair for _, pair in pairs])
    bias = _biases([one.residuals(call, speech) for one in compared])
    left: list[Residuals] = []
    for stratum in set(strata.values()):
        of_others = _fit_variances([pair for person, pair in pairs if strata[person] != stratum])
        others = [one.residuals(*of_others) for one in compared if strata[one.person] != stratum]
        own = [one.residuals(*of_others) for one in compared if strata[one.person] == stratum]
        left += [replace(one, values=one.values - _biases(others)[one.bin]) for one in own]
    bins = []
    for n, floor in enumerate(SNR_FROM):
        values, weights = _of_bin(left, n)
        deviation = float(np.sqrt(np.average(np.square(values), weights=weights)))
        logs = np.concatenate([one.log_distances[~one.is_own & (one.bin == n)] for one in compared])
        shares = np.concatenate([one.share[~one.is_own & (one.bin == n)] for one in compared])
        other = _moments(logs, shares)
        bins.append(Bin(floor, float(call[n]), float(speech[n]), float(bias[n]), deviation, *other))
    clean = bins[0].log_deviation
    return bins, [replace(one, values=one.values / clean) for one in left]


def _compared(group: Pieces) -> Iterator[Compared]:
    """Enrol everybody in several random ways, and compare with the person's other calls and those of others."""
    for number, person in enumerate(repeated_people(group)):
        random = np.random.default_rng(number)
        is_own = group.person == person
        samples = np.flatnonzero(group.can_enrol & is_own)
        for split in range(SPLITS):
            enrolled = (random.permutation(samples) if split else samples)[:SAMPLES]
            kept = group.is_judged & np.where(
                is_own, ~np.isin(group.recording, group.recording[enrolled]), group.is_whole
            )
            anchor = unit(group.vectors[enrolled].mean(axis=0, keepdims=True))[0]
            yield Compared(
                person=person,
                anchor_bin=group.bin[enrolled],
                anchor_seconds=group.speech_seconds[enrolled],
                log_distances=log_distance(1 - group.vectors[kept].astype(np.float64) @ anchor),
                bin=group.bin[kept],
                speech_seconds=group.speech_seconds[kept],
                share=group.share[kept],
                recording=group.recording[kept],
                is_own=is_own[kept],
            )


def _biases(residuals: Sequence[Residuals]) -> Numbers:
    return np.array([_moments(*_of_bin(residuals, n))[0] for n in range(len(SNR_FROM))])


def _of_bin(residuals: Sequence[Residuals], n: int) -> tuple[Numbers, Numbers]:
    """Return the values of one bin, and their weights: everybody counts the same."""
    total: dict[str, float] = {}
    for one in residuals:
        total[one.person] = total.get(one.person, 0) + one.share[one.bin == n].sum()
    heard = [one for one in residuals if total[one.person]]
    values = np.concatenate([one.values[one.bin == n] for one in heard])
    return values, np.concatenate([one.share[one.bin == n] / total[one.person] for one in heard])


Pairs = tuple[int, Numbers, Numbers, Numbers, Numbers]  # bin; distance, both lengths and weight of each pair


def _fit_variances(pairs: Sequence[Pairs]) -> tuple[Numbers, Numbers]:
    """Regress distances between clean recordings and calls of one person on the lengths of speech, for every bin.

    A distance is expected to be half the sum of both variances.
    """
    call, speech = np.zeros(len(SNR_FROM)), np.zeros(len(SNR_FROM))
    for n, floor in enumerate(SNR_FROM):
        of_bin = [pair for pair in pairs if pair[0] == n]
        if not of_bin:
            raise Unprocessable(
                f"No call with an SNR of {floor:g} dB or more was heard of people with {SAMPLES + 1} recordings",
                "Add recordings with less noise, or longer ones.",
                "no_such_recordings",
            )
        distance, clean_seconds, seconds, weight = (np.concatenate([pair[k] for pair in of_bin]) for k in (1, 2, 3, 4))
        if n == 0:
            harmonic = 2 / (1 / clean_seconds + 1 / seconds)
            call[n], speech[n] = _regressed(distance, harmonic, weight, np.zeros(len(weight)))
        else:
            known = call[0] + speech[0] / clean_seconds
            call[n], speech[n] = _regressed(2 * distance - known, seconds, weight, known)
    return call, speech


def _pairs(group: Pieces, person: str) -> Iterator[Pairs]:
    is_own = group.person == person
    clean = np.flatnonzero(is_own & group.can_enrol & (group.bin == 0))
    judged = np.flatnonzero(is_own & group.is_judged)
    distances = 1 - group.vectors[clean].astype(np.float64) @ group.vectors[judged].T
    is_pair = group.recording[clean, np.newaxis] != group.recording[judged]
    for n in range(len(SNR_FROM)):
        rows, columns = np.nonzero(is_pair & (group.bin[judged] == n))
        if len(rows):
            weight = group.share[judged][columns]
            seconds = group.speech_seconds
            yield n, distances[rows, columns], seconds[clean][rows], seconds[judged][columns], weight / weight.sum()


def _regressed(variance: Numbers, seconds: Numbers, weight: Numbers, known: Numbers) -> tuple[float, float]:
    """Fit variance = call + speech / seconds, neither below 0; errors grow with what is expected."""
    terms = np.stack([np.ones_like(seconds), 1 / seconds], axis=1)
    found = np.array([0.1, 0.3])
    for _ in range(ROUNDS):
        weighted = weight / np.square(np.maximum(terms @ found, 1e-3) + known)
        normal, right = (terms * weighted[:, np.newaxis]).T @ terms, (terms * weighted[:, np.newaxis]).T @ variance
        found = np.linalg.solve(normal, right)
        if found.min() < 0:
            kept = int(found.argmax())
            found = np.zeros(2)
            found[kept] = max(0.0, right[kept] / normal[kept, kept])
    return float(found[0]), float(found[1])


def _moments(values: Numbers, weights: Numbers) -> tuple[float, float]:
    mean = float(np.average(values, weights=weights))
    return mean, float(np.sqrt(np.average(np.square(values - mean), weights=weights)))


def fit_prior(own: Sequence[Residuals]) -> Prior:
    """Estimate, by the moments of z in the clean bin, how people's means and variances differ."""
    moments: dict[str, list[tuple[float, float, int]]] = {}
    for one in own:
        is_clean = one.bin == 0
        calls = len(np.unique(one.recording[is_clean]))
        if calls > 1:
            mean, deviation = _moments(one.values[is_clean], one.share[is_clean])
            moments.setdefault(one.person, []).append((mean**2, deviation**2, calls))
    squared_mean, variance, calls_ = np.array([np.mean(found, axis=0) for found in moments.values()]).T
    # The variances of a few calls differ by chance: by 2 / (calls - 1) of their mean, squared.
    squared_variation = variance.var(ddof=1) / variance.mean() ** 2 - np.mean(2 / (calls_ - 1))
    degrees = 4 + 2 / max(squared_variation, 1e-9)
    return Prior(
        degrees=float(np.clip(degrees, FEWEST_DEGREES, MOST_DEGREES)),
        variance=float(variance.mean()),
        mean_variance=max(LEAST_MEAN_VARIANCE, float(squared_mean.mean())),
    )
