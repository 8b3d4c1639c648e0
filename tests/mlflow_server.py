"""A real MLflow server for tests: a process of its own on loopback, on SQLite, which may be away for a while."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

__all__ = ["MlflowServer"]

READY_WITHIN = 180.0  # generous: it takes half a minute on a busy machine, and nothing here is a timing


class MlflowServer:
    """Started with the object, over a database and a folder of files that outlive its absences."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self.start()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db",
            "--artifacts-destination", str(self._folder / "files"),
        ]  # fmt: skip
        # seven processes for jobs of its own, which nothing here gives it
        variables = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=variables, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + READY_WITHIN
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def stop(self) -> None:
        """At once, with all its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def versions(self, name: str) -> list[ModelVersion]:
        return sorted(self.client.search_model_versions(f"name='{name}'"), key=lambda each: int(each.version))

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False
