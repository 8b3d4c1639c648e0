"""The command line that asks for what some options ask for."""

from __future__ import annotations

import shlex

from converter.options import Options

__all__ = ["command_line"]

PLAIN = (
    *("method", "precision", "samples", "seed", "time_budget", "threads", "min_agreement", "max_drop"),
    *("expected_accuracy", "prefer", "effort", "target", "size_budget"),
)
DATA = ("validation", "calibration")
PATTERNS = ("exclude", "include")


def command_line(model: str, options: Options) -> str:
    """``zsq convert`` of the model with every option that is not the default, quoted for a shell.

    The owner's files stand without their folders, for a report goes to others.
    """
    default, words = Options(), ["zsq", "convert", model]
    for name in PLAIN:
        value = getattr(options, name)
        if value != getattr(default, name):
            words += [_flag(name), str(value)]
    for name in DATA:
        path = getattr(options, name)
        words += [] if path is None else [_flag(name), path.name]
    for name in PATTERNS:
        words += [word for pattern in getattr(options, name) for word in (_flag(name), pattern)]
    words += [word for name, spec in sorted(options.inputs.items()) for word in ("--input", f"{name}={spec}")]
    words += [word for name, kind in sorted(options.outputs.items()) for word in ("--output", f"{name}={kind}")]
    words += [word for step in sorted(options.skip) for word in ("--skip", str(step))]
    return shlex.join(words)


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
