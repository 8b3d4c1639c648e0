"""The zoo beside the checkout: its models, its evaluator, its baselines; nothing of it is part of the repository."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "Baseline", "Zoo", "baseline_model", "open_zoo", "zoo_folder"]

KINDS = ("real", "real_float_head", "noise", "noise_float_head")
MODULES = ("zoo", "specs", "inference", "baselines")


def zoo_folder() -> Path | None:
    """Where the zoo is (ZSQ_ZOO, else ../shared/zoo beside the checkout), or None."""
    named = os.environ.get("ZSQ_ZOO")
    folder = Path(named) if named else Path(__file__).resolve().parents[2].parent / "shared" / "zoo"
    return folder if (folder / "zoo.py").is_file() else None


@dataclass(frozen=True)
class Baseline:
    """One of onnxruntime's own builds on the zoo's samples; ``fidelity`` is agreement in % or the worst output's dB."""

    value: float
    difference: float
    fidelity: float


@dataclass(frozen=True)
class Zoo:
    """The zoo's own modules and tables, loaded from its folder."""

    folder: Path
    zoo: Any
    inference: Any
    baselines: Any
    specs: dict[str, Any]
    stored: dict[str, dict[str, Any]]

    def stored_baselines(self, name: str) -> dict[str, Baseline]:
        """The published baselines of a model, measured on its ``table_samples``."""
        kinds = self.stored.get(name, {}).get("kinds", {})
        return {kind: as_baseline(kinds[kind]) for kind in KINDS if kind in kinds}


def as_baseline(result: dict[str, Any]) -> Baseline:
    agreement = result["agreement"]
    fidelity = min(result["sqnr_db"].values()) if agreement is None else agreement
    return Baseline(result["int8"], result["difference"], fidelity)


@cache
def open_zoo() -> Zoo:
    """The zoo; raises FileNotFoundError saying where it was looked for."""
    folder = zoo_folder()
    if folder is None:
        raise FileNotFoundError("there is no zoo: set ZSQ_ZOO to its folder, or put it at ../shared/zoo")
    sys.path.insert(0, str(folder))  # its modules import one another by their bare names
    try:
        zoo, specs, inference, baselines = (import_module(name) for name in MODULES)
    finally:
        sys.path.remove(str(folder))
    rows = json.loads((folder / "baselines.json").read_text())
    named = {spec.name: spec for spec in specs.SPECS}
    return Zoo(folder, zoo, inference, baselines, named, {row["name"]: row for row in rows})


def baseline_model(zoo: Zoo, name: str, kind: str = "real") -> Path:
    """onnxruntime's own INT8 build of a zoo model, built once and kept in the user's cache."""
    spec = zoo.specs[name]
    digest = hashlib.sha256(spec.file.read_bytes()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "zsq-bench"
    stored = folder / f"{name}-{digest}.{kind}.int8.onnx"
    if not stored.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = stored.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(zoo.baselines.build(spec, zoo.baselines.Kind(kind)).model)
        partial.replace(stored)
    return stored
