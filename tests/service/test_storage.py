"""The artefact store: one behaviour in a folder and on S3 (moto's server), and nothing half-written is ever seen."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.database import now
from service.storage import Artefacts, Missing, StoreDown, content_key


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def artefacts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artefacts:
    if request.param == "folder":
        return Artefacts(f"file://{tmp_path}/store")
    endpoint = request.getfixturevalue("s3_server")
    bucket = f"bucket{abs(hash(str(tmp_path)))}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return Artefacts(f"s3://{bucket}/some/prefix", retry_for=1)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def collect(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in stream])


@pytest.mark.parametrize("size", [1000, 1 << 20, 9 << 20], ids=["one put", "a batch", "several parts of S3"])
def test_the_key_is_the_content(artefacts: Artefacts, size: int) -> None:
    data = os.urandom(size)
    pieces = [data[start : start + 65_536] for start in range(0, len(data), 65_536)]
    stored = asyncio.run(artefacts.put(chunks(*pieces)))
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert stored.key == content_key(stored.sha256)
    assert stored.size == len(data)
    assert asyncio.run(artefacts.put(chunks(data))) == stored
    assert artefacts.put_open(io.BytesIO(data)) == stored
    assert asyncio.run(collect(artefacts.read(stored.key))) == data
    assert asyncio.run(artefacts.size(stored.key)) == len(data)
    assert [entry.key for entry in artefacts.list("sha256")] == [stored.key]
    assert list(artefacts.list("tmp")) == []


def test_a_range_is_read_alone(artefacts: Artefacts) -> None:
    stored = artefacts.put_open(io.BytesIO(b"0123456789"))
    assert asyncio.run(collect(artefacts.read(stored.key, (3, 7)))) == b"3456"


def test_an_empty_object_is_an_object(artefacts: Artefacts) -> None:
    stored = asyncio.run(artefacts.put(chunks()))
    assert stored.size == 0
    assert asyncio.run(collect(artefacts.read(stored.key))) == b""


def test_an_upload_that_fails_leaves_nothing(artefacts: Artefacts) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (3 << 20)
        raise ConnectionResetError("the client is gone")

    with pytest.raises(Exception, match="gone"):
        asyncio.run(artefacts.put(broken()))
    assert list(artefacts.list("sha256")) == []
    assert list(artefacts.list("tmp")) == []


def test_absence_is_missing_and_deletion_repeatable(artefacts: Artefacts, tmp_path: Path) -> None:
    key = content_key("0" * 64)
    with pytest.raises(Missing):
        asyncio.run(artefacts.size(key))
    with pytest.raises(Missing):
        asyncio.run(collect(artefacts.read(key)))
    with pytest.raises(Missing):
        artefacts.fetch(key, tmp_path / "absent")
    assert not artefacts.exists(key)
    artefacts.delete_now(key)
    asyncio.run(artefacts.delete(key))
    stored = artefacts.put_open(io.BytesIO(b"x"))
    asyncio.run(artefacts.delete(stored.key))
    assert not artefacts.exists(stored.key)


def test_the_probe_leaves_nothing(artefacts: Artefacts) -> None:
    asyncio.run(artefacts.probe())
    assert list(artefacts.list("tmp")) == []


def test_a_signed_url_gives_the_object_to_anyone(artefacts: Artefacts) -> None:
    stored = artefacts.put_open(io.BytesIO(b"content"))
    url = artefacts.presign(stored.key, 60)
    if artefacts.folder is not None:
        assert url is None
        return
    assert url is not None
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"content"


def test_keys_do_not_leave_the_store(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    artefacts = Artefacts(f"file://{tmp_path}/store")
    for key in ("../secret", "sha256/../../secret", "/etc/passwd"):
        with pytest.raises((Missing, ValueError)):
            list(artefacts.read_chunks(key))


def test_a_process_killed_in_the_middle_of_a_put_leaves_nothing_visible(tmp_path: Path) -> None:
    program = f"""
import asyncio
from service.storage import Artefacts
async def endless():
    while True:
        yield b"x" * (1 << 20)
        print("more", flush=True)
asyncio.run(Artefacts("file://{tmp_path}/store").put(endless()))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(40):
        assert process.stdout.readline() == b"more\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    artefacts = Artefacts(f"file://{tmp_path}/store")
    assert list(artefacts.list("sha256")) == []
    assert artefacts.sweep_staging(now() - timedelta(days=1)) == 0, "it may still be running elsewhere"
    artefacts.sweep_staging(now() + timedelta(seconds=1))
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_an_unreachable_store_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    artefacts = Artefacts("s3://bucket/prefix", retry_for=0.1)
    with pytest.raises(StoreDown):
        asyncio.run(artefacts.probe())
    with pytest.raises(StoreDown):
        artefacts.exists("sha256/00/00")
