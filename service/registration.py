"""Succeeded conversions on their way to MLflow, apart from the conversions themselves: nothing of a job waits for it.

MLflow's client runs in a process of its own, which is ended after a while: a server that hangs holds up no worker, and
a hundred megabytes of libraries are there only as long as they are needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog

from converter.console import REFUSED
from service import database as tables
from service.interpreter import code_paths, python
from service.jobs import Jobs
from service.outbox import REGISTRATIONS, NotSent, Outbox
from service.settings import Settings
from service.storage import Missing, StoreDown

__all__ = ["Registrations"]

MODULE = "converter.registration"
SECONDS = 900.0  # a model of 1 GiB on a line of 10 Mbit/s


class Registrations(Outbox):
    """The handler of registrations; ``folder`` is for files on their way."""

    def __init__(self, jobs: Jobs, settings: Settings, folder: Path) -> None:
        super().__init__(REGISTRATIONS, jobs.database, jobs.engine, self._register)
        self._jobs = jobs
        self._settings = settings
        self._folder = folder

    def _register(self, row: sa.Row[Any], /) -> Mapping[str, Any]:
        with self._jobs.database.reading() as connection:
            query = sa.select(tables.jobs.c.artefacts).where(tables.jobs.c.id == row.job_id)
            artefacts = connection.execute(query).scalar()
        if artefacts is None:
            raise NotSent("The conversion was deleted.")
        folder = self._folder / row.id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        try:
            model, report = folder / "model.onnx", folder / "report.json"
            self._jobs.artefacts.fetch(artefacts["model"], model)
            self._jobs.artefacts.fetch(artefacts["report"], report)
            return {"version": self._ask(row, model, report)}
        except Missing as problem:
            raise NotSent("The result is no longer in the store.") from problem
        except (StoreDown, OSError) as problem:
            structlog.get_logger().warning("a result could not be read", registration=row.id, reason=str(problem)[:500])
            raise NotSent("The result could not be read from the store.") from problem
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ask(self, row: sa.Row[Any], model: Path, report: Path) -> str:
        """The version that MLflow has the model under."""
        settings = self._settings
        command = python(
            "-m", MODULE, "register", str(model), "--report", str(report), "--json", "--uri", str(settings.mlflow_uri),
            "--name", row.name, "--alias", settings.mlflow_alias, "--experiment", settings.mlflow_experiment,
            "--tag", f"zsq.job={row.job_id}", "--tag", f"zsq.owner={row.owner}",
        )  # fmt: skip
        variables = os.environ | code_paths()
        try:
            ended = subprocess.run(
                command, cwd=model.parent, env=variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as problem:
            raise NotSent(f"MLflow took more than {SECONDS:.0f} seconds.") from problem
        lines = ended.stdout.decode(errors="replace").splitlines()
        said = json.loads(lines[-1]) if lines else {}
        match said.get("event"):
            case "registered":
                return str(said["version"])
            case "error" if ended.returncode == REFUSED:
                raise NotSent(said["message"])
        errors = ended.stderr.decode(errors="replace")
        structlog.get_logger().error("MLflow's client failed", registration=row.id, text=errors[-4000:])
        raise NotSent("MLflow's client failed; the service's log says how.")
