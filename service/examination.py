"""The child of an inspection: what is in a model, as a small file of JSON.

Run in the sandbox as ``service.examination MODEL OUT.json``; speaks the protocol of ``converter convert --json``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from converter.console import emit
from converter.errors import ConversionError
from converter.inspection import inspect

__all__ = ["summarize"]

MOST = 50  # inputs, outputs, notes, changes and reasons; a page shows no more


def summarize(found: dict[str, Any]) -> dict[str, Any]:
    """The inspection without its nodes one by one: how many run on integers, and why the others do not."""
    nodes = found.pop("nodes")
    why = Counter(node["why_float"] for node in nodes if not node["integer"])
    operators = Counter(node["operator"] for node in nodes if node["integer"])
    short = {name: value[:MOST] if isinstance(value, list) else value for name, value in found.items()}
    return short | {
        "integer": {"nodes": sum(operators.values()), "operators": dict(operators.most_common(MOST))},
        "float": {"nodes": sum(why.values()), "reasons": dict(why.most_common(MOST))},
    }


def main(model: str, target: str) -> int:
    try:
        facts = summarize(inspect(Path(model)).to_dict())
    except ConversionError as problem:
        emit({"event": "error", **problem.facts()})
        return 2
    Path(target).write_text(json.dumps(facts, default=str))
    emit({"event": "result"})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
