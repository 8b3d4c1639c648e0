"""The API against its own OpenAPI document: schemathesis makes thousands of requests, valid, odd and broken.

    python -m tests.bench.api_fuzz [--examples 2000] [--seed 1] [--database postgresql]

Exits with 1 if there was a server error or a violation beyond those listed in ``EXCLUDED``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.results import origin, table, write_section
from tests.service.harness import Cluster, Service
from tests.service.web import Api, served, told

EXCLUDED = {
    "convert": "the body and options of submitConversion, through the same code, and then it waits for a child process",
    "positive_data_acceptance of submitConversion": (
        "a schema cannot say that LOW is below HIGH in range=LOW:HIGH, that a webhook is a public address, "
        "or that an idempotency key may not be used twice with different bodies"
    ),
    "positive_data_acceptance of listConversions": "a cursor is opaque: one that was not given out is refused with 400",
}
"""Operations or checks that are left out, each with its reason."""

CONFIGURATION = """
seed = {seed}
continue-on-failure = true
[generation]
max-examples = {examples}
no-shrink = true
[[operations]]
include-operation-id = "convert"
enabled = false
[[operations]]
include-operation-id = "submitConversion"
checks.positive_data_acceptance.enabled = false
[[operations]]
include-operation-id = "listConversions"
checks.positive_data_acceptance.enabled = false
"""

KNOWN_CONVERSION = """
[parameters]
"path.conversion" = "{finished}"
[[operations]]
include-operation-id = "deleteConversion"
parameters = {{ "path.conversion" = "0123456789abcdef" }}
"""
"""For requests that do not follow from one another: one conversion that is there and stays."""


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    given.add_argument("--examples", type=int, default=2000)
    given.add_argument("--seed", type=int, default=1)
    given.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    arguments = given.parse_args()
    cluster = Cluster() if arguments.database == "postgresql" else None
    url = None if cluster is None else cluster.create("zsq_fuzz")
    with tempfile.TemporaryDirectory(prefix="zsq-fuzz-") as folder:
        service = Service(Path(folder) / "data", url, max_upload_bytes=1 << 20, queue_limit=100_000)
        try:
            service.worker()
            with served(service.settings) as api:
                log = _fuzz(api, Path(folder), arguments.examples, arguments.seed)
                alive = api.get("/healthz").status_code == 200
        finally:
            service.close()
            if cluster is not None:
                cluster.remove()
    print(log)
    generated = sum(map(int, re.findall(r"(\d+) generated", log)))
    failures = re.findall(r"❌ (ST\d+ [^\n]+)", log)
    rows = [
        ["requests generated", str(generated)],
        ["server errors", str(sum("Server error" in each for each in failures))],
        ["contract violations beyond the exclusions", str(len(failures))],
        ["alive afterwards", "yes" if alive else "no"],
    ]
    listed = "\n".join(f"- {what}: {why}." for what, why in EXCLUDED.items())
    command = ["python", "-m", "tests.bench.api_fuzz", *sys.argv[1:]]
    write_section(
        "API fuzz", f"{origin(command)}\n\n{table(['what', 'count'], rows)}\n\nLeft out, with reasons:\n\n{listed}"
    )
    return 0 if alive and not failures and generated >= arguments.examples else 1


def _fuzz(api: Api, folder: Path, examples: int, seed: int) -> str:
    """What schemathesis printed."""
    document: dict[str, Any] = api.get("/openapi.json").json()
    operations = sum(map(len, document["paths"].values()))
    finished = api.wait_final(api.submit(told()).json()["id"])
    assert finished["status"] == "succeeded", json.dumps(finished["error"])
    each = -(-3 * examples // (2 * operations))  # operations without parameters are soon exhausted
    configuration = CONFIGURATION.format(seed=seed, examples=each)
    known = configuration + KNOWN_CONVERSION.format(finished=finished["id"])
    return _run(api, folder, known, "examples,coverage,fuzzing") + _run(api, folder, configuration, "stateful")


def _run(api: Api, folder: Path, configuration: str, phases: str) -> str:
    file = folder / "schemathesis.toml"
    file.write_text(configuration)
    command = ["st", "--config-file", str(file), "run", f"{api.base_url}/openapi.json", "--phases", phases]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr


if __name__ == "__main__":
    sys.exit(main())
