"""A line of a table for each experiment, on the screen and, if asked for, at the end of a file."""

from __future__ import annotations

import datetime
import platform
import sys
from pathlib import Path

__all__ = ["Results"]


class Results:
    """Collects rows and writes them as a Markdown table with date, command and machine."""

    def __init__(self, title: str, columns: tuple[str, ...]) -> None:
        self.title, self.columns = title, columns
        self.rows: list[tuple[str, ...]] = []

    def add(self, *cells: object) -> None:
        self.rows.append(tuple(map(str, cells)))
        print("  ".join(map(str, cells)), flush=True)

    def write(self, path: Path | None) -> None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        command = " ".join(["python", "-m", _module(), *sys.argv[1:]])
        lines = [f"### {self.title}", "", f"{today}, `{command}`, Linux {platform.release()}, {platform.machine()}", ""]
        lines += ["| " + " | ".join(self.columns) + " |", "|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        text = "\n".join(lines) + "\n\n"
        print(text)
        if path is not None:
            with path.open("a") as file:
                file.write(text)


def _module() -> str:
    path = Path(sys.argv[0]).resolve()
    return ".".join(path.relative_to(Path(__file__).resolve().parents[2]).with_suffix("").parts)
