"""The converter's rooms are stacked one way: whoever reads imports never meets an upward one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import converter

ROOT = Path(converter.__file__).parent
FLOORS = (  # from the ground up; rooms of one floor may not import each other unless named in one entry
    ("capacity", "errors", "families", "limits", "progress", "process_memory"),
    ("specifications", "targets"),
    ("options", "files", "sessions", "findings"),
    ("graph", "attempts"),
    ("scores", "interface", "exclusions", "provenance", "operators", "checkpoints"),
    ("admission",),
    ("normalization",),
    ("reconstruction",),
    ("inputs",),
    ("synthesis",),
    ("quantization",),
    ("evaluation", "expectation"),
    ("report",),
    ("pipeline", "inspection"),
    ("validation",),
    ("verification",),
    ("outputs", "console", "tracking"),
    ("demo",),
    ("cli",),
    ("registration", "trial"),
    ("__main__",),
)
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LONGEST = 400  # lines


def modules() -> Iterator[tuple[Path, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        room = relative.parts[0].removesuffix(".py")
        if room != "__init__":  # the door shows names of every floor
            yield relative, room


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "converter":
            names = [node.module.split(".")[1]] if "." in node.module else [each.name for each in node.names]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (each.name.split(".")[1] for each in node.names if each.name.startswith("converter."))


def test_every_room_has_its_floor() -> None:
    assert {room for _, room in modules()} == set(HEIGHT)


def test_imports_go_one_way() -> None:
    upward = [
        f"{path} imports {other}"
        for path, room in modules()
        for other in imported_rooms(path)
        if other != room and HEIGHT[other] >= HEIGHT[room]
    ]
    assert not upward


def test_no_module_is_longer_than_can_be_read() -> None:
    lines = {str(path): len((ROOT / path).read_text().splitlines()) for path, _ in modules()}
    assert not {path for path, count in lines.items() if count > LONGEST}
