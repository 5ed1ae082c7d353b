"""Where the tests keep exported networks: an export takes seconds, and many processes are started here."""

from __future__ import annotations

import os
from pathlib import Path

MODELS = Path(os.environ.setdefault("RETROCARE_MODEL_DIR", str(Path(__file__).resolve().parent / ".models")))
