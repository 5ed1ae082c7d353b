"""The rooms of the package: who may use whom stands in each room's first lines, and the imports keep to it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import retrocare

PACKAGE = Path(retrocare.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
ROOMS = ("audio", "encoders", "calibration", "recordings", "database", "checks", "api", "cli")
GROUND = ("errors", "settings", "observability", "engine")


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str() as module, names=names, level=0):
                found |= {full if (full := f"{module}.{one.name}") in MODULES else module for one in names}
            case ast.ImportFrom():
                raise AssertionError(f"{path} imports by a relative path")
            case ast.Import(names=names):
                found |= {one.name for one in names}
    return {name for name in found if name in MODULES and name != "retrocare"}


def room_of(module: str) -> str:
    return module.split(".")[1]


def rooms_used() -> dict[str, set[str]]:
    used: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        if module != "retrocare":
            used[room_of(module)] |= {room_of(name) for name in imports_of(path)} - {room_of(module)}
    return used


def rooms_allowed(room: str) -> set[str]:
    """Read what a room's first lines say that it may use."""
    [line] = re.findall(r"^May use: (.*)\.$", (PACKAGE / room / "__init__.py").read_text(), re.MULTILINE)
    return set(line.split(", "))


def test_every_module_is_in_a_room_or_on_the_ground() -> None:
    assert {room_of(module) for module in MODULES if module != "retrocare"} == {*ROOMS, *GROUND}


def test_a_room_uses_exactly_the_rooms_that_its_first_lines_name() -> None:
    used = rooms_used()
    assert {room: used[room] for room in ROOMS} == {room: rooms_allowed(room) for room in ROOMS}


def test_no_room_uses_a_room_above_it() -> None:
    floor = {room: number for number, room in enumerate((*GROUND, *ROOMS))}
    up = {(room, other) for room, others in rooms_used().items() for other in others if floor[other] >= floor[room]}
    assert up == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: imports_of(path) for module, path in MODULES.items()}).prepare()


def test_every_rooms_first_lines_name_each_of_its_modules() -> None:
    for room in ROOMS:
        told = (PACKAGE / room / "__init__.py").read_text()
        names = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
        if room != "cli":  # its modules are the groups of its commands
            assert {name for name in names if f"`{name}`" not in told} == set()
