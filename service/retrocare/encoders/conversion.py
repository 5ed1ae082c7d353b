"""ECAPA's network, converted once and kept in the model folder, in OpenVINO's format, beside torch's answers.

The conversion runs in a process of its own: a service never loads torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import openvino

from retrocare.encoders.network import Network, NetworkEncoder
from retrocare.encoders.weights import Weights, require_torch
from retrocare.engine import read_network
from retrocare.errors import ConfigurationError
from retrocare.observability import Say

NETWORK, WEIGHTS, DESCRIPTION = "network.xml", "network.bin", "network.json"  # what lies in a folder
CONVERSION_SECONDS = 300.0
FORMAT = 1  # of the folder and what is in it: another number, and every network is converted again


def load_converted(weights: Weights, models: Path, say: Say) -> Network:
    """Load a converted network; convert it first where that has not been done, or the files are damaged.

    Raises: ConfigurationError where it cannot be converted.
    """
    folder = converted_folder(weights, models)
    if folder.exists():
        try:
            return _read(folder)
        except ConfigurationError as damaged:
            say(f"{damaged}.")
    require_torch()
    say("Converting ECAPA for OpenVINO, and comparing it with torch. This happens once and takes about ten seconds.")
    command = [sys.executable, "-m", "retrocare.encoders.conversion", str(weights.path), str(folder)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, timeout=CONVERSION_SECONDS, capture_output=True, text=True)
    except subprocess.CalledProcessError as failed:
        last = (failed.stderr.strip() or "no reason given").splitlines()[-1]
        raise ConfigurationError(f"ECAPA could not be converted: {last}") from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"ECAPA was not converted within {CONVERSION_SECONDS:g} s") from None
    except OSError as error:
        hint = "RETROCARE_MODEL_DIR names a folder that can be written."
        raise ConfigurationError(f"{folder.parent} cannot be written: {error.strerror}", hint=hint) from None
    return _read(folder)


def converted_folder(weights: Weights, models: Path) -> Path:
    """Return where a converted network lies; other weights lie elsewhere."""
    revision = hashlib.sha256(f"{FORMAT} {weights.digest}".encode()).hexdigest()[:12]
    return models / "converted" / f"{weights.family}-{revision}"


def _read(folder: Path) -> Network:
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        if described.pop("sha256") != _digests(folder):
            raise ValueError("other files than were written")
        answers = np.array(described.pop("answers"), np.float32)
        return Network(read_network(folder / NETWORK), **described, answers=answers)
    except (OSError, ValueError, LookupError, TypeError, ConfigurationError) as error:
        raise ConfigurationError(f"The converted network in {folder} cannot be read ({error})") from error


def convert(source: Path, folder: Path) -> None:
    """Write ECAPA's network, from a folder in SpeechBrain's format, and torch's answers, into a folder.

    Raises: ConfigurationError where it cannot be read, or OpenVINO disagrees with torch; nothing is written then.
    """
    from retrocare.encoders.ecapa import Ecapa

    network = Ecapa(source).converted()
    NetworkEncoder("ecapa", network, denoises=False, threads=1)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as unfinished:
        finished = Path(unfinished) / "finished"
        openvino.save_model(network.model, finished / NETWORK, compress_to_fp16=False)
        described = {name: getattr(network, name) for name in ("window_seconds", "windows_at_once")}
        described |= {"answers": network.answers.tolist(), "sha256": _digests(finished)}
        (finished / DESCRIPTION).write_text(json.dumps(described))
        with suppress(FileNotFoundError):  # a damaged one makes room
            os.rename(folder, Path(unfinished) / "damaged")
        with suppress(OSError):  # another process has just written the same
            os.rename(finished, folder)


def _digests(folder: Path) -> list[str]:
    found = []
    for name in (NETWORK, WEIGHTS):
        with (folder / name).open("rb") as content:
            found.append(hashlib.file_digest(content, "sha256").hexdigest())
    return found


def main() -> None:
    """Convert from SOURCE into FOLDER, in a process of its own."""
    source, folder = sys.argv[1:]
    try:
        convert(Path(source), Path(folder))
    except (ConfigurationError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
