"""The baseline migration: the files of ``supabase/schemas``, one after the other, in one file."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "supabase" / "schemas"
BASELINE = ROOT / "supabase" / "migrations" / "20261121090000_retrocare_1_0_0.sql"
HEAD = "-- Made of supabase/schemas by `scripts/release baseline`: read, and change, those.\n"


def baseline(schemas: Path = SCHEMAS) -> str:
    """Return the text of the baseline migration: the schemas, one after the other."""
    parts = [f"\n-- {path.name}\n\n{path.read_text(encoding='utf-8')}" for path in sorted(schemas.glob("*.sql"))]
    return HEAD + "".join(parts)


def write_baseline() -> bool:
    """Write the baseline migration anew; tell whether it changed."""
    text = baseline()
    if BASELINE.exists() and BASELINE.read_text(encoding="utf-8") == text:
        return False
    BASELINE.parent.mkdir(exist_ok=True)
    BASELINE.write_text(text, encoding="utf-8")
    return True
