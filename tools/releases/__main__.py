"""``scripts/release``: see its help."""

from __future__ import annotations

import sys

from releases.baseline import BASELINE, write_baseline

if __name__ == "__main__":
    if sys.argv[1:] != ["baseline"]:
        sys.exit("Usage: scripts/release baseline")
    print(f"{BASELINE.name}: {'written anew' if write_baseline() else 'is as the schemas say'}")
