"""What the tests take from outside of the repository, and where they keep what takes long to make."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent

# Exported networks: an export takes seconds, and the processes that are started here look in the same place.
MODELS = Path(os.environ.setdefault("RETROCARE_MODEL_DIR", str(TESTS / ".models")))

# Real recordings, a folder a person below librispeech/ and digits/; not part of the repository.
SPEECH = Path(os.environ.get("RETROCARE_SPEECH_DIR") or TESTS.parent.parent / "shared" / "speech")
