"""What `supabase/config.toml` and the documents' steps leave alone: the settings of a project that is there already."""

from __future__ import annotations

import tomllib

from fixtures.inputs import ROOT

CONFIGURATION = tomllib.loads((ROOT / "supabase" / "config.toml").read_text())


def test_no_step_pushes_the_configuration_over_a_projects_own_settings() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "scripts").iterdir()]
    assert [path.name for path in documents if "config push" in path.read_text()] == []


def test_the_configuration_that_somebody_pushes_all_the_same_changes_neither_accounts_nor_storage_nor_the_api() -> None:
    assert CONFIGURATION["auth"] == {"enabled": False}
    assert CONFIGURATION["storage"] == {"enabled": False}
    assert "api" not in CONFIGURATION


def test_every_edge_function_is_deployed_without_the_gateways_check_of_a_session() -> None:
    functions = {path.parent.name for path in (ROOT / "supabase" / "functions").glob("*/index.ts")}
    assert CONFIGURATION["functions"] == {name: {"verify_jwt": False} for name in functions}
