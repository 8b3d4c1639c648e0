"""Settings are complete without a variable, and refuse what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_defaults_lie_in_one_folder(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.data_dir == tmp_path / "zsq"
    assert settings.database_url == f"sqlite:///{tmp_path}/zsq/zsq.sqlite3"
    assert settings.store_url == f"file://{tmp_path}/zsq/artefacts"
    assert settings.is_sqlite


def test_variables_and_arguments_decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZSQ_DATA_DIR", str(tmp_path / "a"))
    monkeypatch.setenv("ZSQ_DATABASE_URL", "postgres://user@host/name")
    monkeypatch.setenv("ZSQ_KEEP_DAYS", "")
    settings = Settings(store_url="s3://bucket/prefix")
    assert settings.database_url == "postgresql+psycopg://user@host/name"
    assert settings.store_url == "s3://bucket/prefix"
    assert not settings.is_sqlite
    assert settings.keep_days == 30


@pytest.mark.parametrize("given", [{"database_url": "mysql://x"}, {"store_url": "/folder"}, {"store_url": "http://x"}])
def test_unknown_places_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="is "):
        Settings(**given)  # type: ignore[arg-type]


def test_keys_are_asked_for_beyond_loopback() -> None:
    assert not Settings(host="127.0.0.1").requires_keys
    assert not Settings(host="::1").requires_keys
    assert Settings(host="0.0.0.0").requires_keys
    assert not Settings(host="0.0.0.0", auth=False).requires_keys
    assert Settings(host="127.0.0.1", auth=True).requires_keys
