"""The calibration of an encoder as a document: what SQL stores, and what is shipped with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from retrocare.calibration.formulas import Bin, Numbers, Prior, Projection
from retrocare.errors import ConfigurationError

Document = dict[str, Any]
DIGITS = 6


@dataclass(frozen=True, eq=False)
class Calibration:
    """Hold the parameters of one encoder, and where they are from; without a projection, raw distances alone judge."""

    encoder: str
    provenance: Mapping[str, Any]
    raw: Sequence[Bin]
    prior: Prior
    whitened: Sequence[Bin] | None = None
    projection: Projection | None = None

    def document(self) -> Document:
        """Write the calibration down, in six digits."""
        return {
            "encoder": self.encoder,
            "provenance": dict(self.provenance),
            "bins": {
                "raw": [_rounded(asdict(one)) for one in self.raw],
                "whitened": self.whitened and [_rounded(asdict(one)) for one in self.whitened],
            },
            "prior": _rounded(asdict(self.prior)),
            "projection": self.projection
            and {
                "weights": [_digits(row) for row in self.projection.weights],
                "offsets": _digits(self.projection.offsets),
            },
        }


def read_calibration(document: Document) -> Calibration:
    """Read a document. Raises: ConfigurationError where something is missing in it."""
    try:
        whitened, projection = document["bins"].get("whitened"), document.get("projection")
        return Calibration(
            encoder=document["encoder"],
            provenance=document["provenance"],
            raw=[Bin(**one) for one in document["bins"]["raw"]],
            prior=Prior(**document["prior"]),
            whitened=[Bin(**one) for one in whitened] if whitened and projection else None,
            projection=Projection(np.array(projection["weights"]), np.array(projection["offsets"]))
            if whitened and projection
            else None,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        told = f"A calibration cannot be read ({type(error).__name__}: {error})"
        raise ConfigurationError(told, "Make it again with `retrocare calibrate`.") from error


def shipped(encoder: str) -> Document | None:
    """Return the document of an encoder that came with the package; None where there is none."""
    file = files("retrocare.calibration") / "parameters" / f"{encoder}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def shipped_ids() -> list[str]:
    """Return the ids of the encoders whose calibration came with the package."""
    folder = files("retrocare.calibration") / "parameters"
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))


def text_of(document: Document) -> str:
    """Write a document with one line a parameter, and one a row of the projection."""
    projection, short = document["projection"], {**document, "projection": None}
    written = json.dumps(short, indent=2)
    if projection is None:
        return written + "\n"
    rows = ",\n".join(f"      {json.dumps(row, separators=(',', ':'))}" for row in projection["weights"])
    offsets = json.dumps(projection["offsets"], separators=(",", ":"))
    told = f'{{\n    "weights": [\n{rows}\n    ],\n    "offsets": {offsets}\n  }}'
    return written.replace('"projection": null', f'"projection": {told}') + "\n"


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: _digit(value) for name, value in values.items()}


def _digits(values: Numbers) -> list[float]:
    return [_digit(value) for value in values.tolist()]


def _digit(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
