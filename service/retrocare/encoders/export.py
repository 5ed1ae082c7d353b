"""ECAPA's network, converted once and kept in the model folder, in OpenVINO's format, with torch's answers in it.

The conversion runs in a process of its own: a service never loads torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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

NETWORK = "network.xml"  # beside it lie the weights, network.bin
CARRIED = ["retrocare", "network"]  # under which the file carries all but the model, as JSON
EXPORT_SECONDS = 300.0
SOURCES = ("ecapa", "export", "network", "spectrum")  # the code that decides what is exported


def load_exported(weights: Weights, models: Path, say: Say) -> Network:
    """Load an exported network; export it first where that has not been done.

    Raises: ConfigurationError where it cannot be exported.
    """
    folder = exported_folder(weights, models)
    if folder.is_dir():
        with suppress(ConfigurationError):  # cut short, or made for another OpenVINO: export it again
            return _read(folder)
        shutil.rmtree(folder, ignore_errors=True)
    require_torch()
    say("Converting ECAPA for this machine, and comparing it with torch: once, some ten seconds.")
    command = [sys.executable, "-m", "retrocare.encoders.export", str(weights.path), str(folder)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, timeout=EXPORT_SECONDS, capture_output=True, text=True)
    except subprocess.CalledProcessError as failed:
        last = (failed.stderr.strip() or "no reason given").splitlines()[-1]
        raise ConfigurationError(f"ECAPA could not be converted: {last}") from None
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"ECAPA was not converted within {EXPORT_SECONDS:g} s") from None
    except OSError as error:
        hint = "RETROCARE_MODEL_DIR names a folder that can be written."
        raise ConfigurationError(f"{folder.parent} cannot be written: {error.strerror}", hint=hint) from None
    return _read(folder)


def exported_folder(weights: Weights, models: Path) -> Path:
    """Return where the exported network lies; it changes with the weights and with the code that exports them."""
    sources = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in SOURCES]
    revision = hashlib.sha256(b"\0".join([weights.digest.encode(), *sources])).hexdigest()[:12]
    return models / "exported" / f"{weights.family}-{revision}"


def _read(folder: Path) -> Network:
    model = read_network(folder / NETWORK)
    carried = json.loads(model.get_rt_info(CARRIED).value)
    return Network(model, **carried | {"answers": np.array(carried["answers"], np.float32)})


def export(source: Path, folder: Path) -> None:
    """Write ECAPA's network, from a folder in SpeechBrain's format, and torch's answers, into a new folder.

    Raises: ConfigurationError where it cannot be read, or the engine disagrees with torch; nothing is written then.
    """
    from retrocare.encoders.ecapa import Ecapa

    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        network = Ecapa(source).exported(Path(unfinished))
        NetworkEncoder("ecapa", network, denoises=False, threads=1)
        carried = {name: getattr(network, name) for name in ("window_seconds", "windows_at_once")}
        network.model.set_rt_info(json.dumps(carried | {"answers": network.answers.tolist()}), CARRIED)
        finished = Path(unfinished) / "finished"
        openvino.save_model(network.model, finished / NETWORK, compress_to_fp16=False)
        with suppress(OSError):  # another process finished the same one first
            os.rename(finished, folder)


def main() -> None:
    """Export from SOURCE into FOLDER, in a process of its own."""
    source, folder = sys.argv[1:]
    try:
        export(Path(source), Path(folder))
    except ConfigurationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
