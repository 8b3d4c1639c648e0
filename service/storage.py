"""Where models, reports and checkpoints lie: a folder by default, an S3 bucket by URL, with the same calls."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

__all__ = ["Artefacts", "Damaged", "Missing", "StoreDown", "Stored", "StoredObject"]

PART = 8 << 20  # S3 parts; two in flight bound the memory of an upload of any size
BATCH = 1 << 20  # ASGI chunks are 64 KiB; joined to this size the hand-over to obstore costs nothing
STAGING = "tmp"
CONTENT = "sha256"
REMEMBERED = 10_000  # objects whose bytes were read and found to be right; some MiB


class Missing(LookupError):
    """There is no such object in the store."""


class Damaged(Missing):
    """The object is there, and its bytes are not those that it is named after."""


class StoreDown(OSError):
    """The store cannot be reached, is full or refuses; the same call may work later."""


@dataclass(frozen=True)
class Stored:
    """One complete object: ``key`` is made from ``sha256``, so equal bytes have one key."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class StoredObject:
    """One entry of a listing."""

    key: str
    size: int
    modified: datetime


def content_key(sha256: str) -> str:
    return f"{CONTENT}/{sha256[:2]}/{sha256}"


def _sha256_of(key: str) -> str | None:
    """What the bytes of the object must hash to; None for those that are not named after their content."""
    folder, _, name = key.partition("/")
    return name.rpartition("/")[2] if folder == CONTENT else None


class Artefacts:
    """Objects by key; a put is visible only when complete, and overwriting is by equal bytes only."""

    def __init__(self, url: str, *, retry_for: float = 10.0) -> None:
        self.url = url
        self._found_right: OrderedDict[tuple[object, ...], None] = OrderedDict()
        parts = urlparse(url)
        self.folder: Path | None = None
        self._store: LocalStore | S3Store
        if parts.scheme == "file":
            self.folder = Path(unquote(parts.path))
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = LocalStore(self.folder)
        elif parts.scheme == "s3":
            self._store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                client_options={
                    "timeout": "1h",  # of a whole body: 1 GiB over a slow line takes minutes
                    "connect_timeout": "5s",
                    "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                },
                retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=retry_for)},
            )
        else:
            raise ValueError(f"{url!r} is neither file:///FOLDER nor s3://BUCKET/PREFIX")

    # for the API, on the event loop

    async def put(self, chunks: AsyncIterator[bytes]) -> Stored:
        """The bytes are in the store under their content address, or nothing is."""
        digest, size = hashlib.sha256(), 0

        async def batches() -> AsyncIterator[bytes]:
            """Pieces of at least a batch and then one that is shorter."""
            nonlocal size
            batch = bytearray()
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                batch += chunk
                if len(batch) >= BATCH:
                    yield bytes(batch)
                    batch.clear()
            yield bytes(batch)

        def stored() -> Stored:
            return Stored(content_key(digest.hexdigest()), digest.hexdigest(), size)

        try:
            pieces = batches()
            first = await anext(pieces)
            if len(first) < BATCH:  # all of it: its name is known before it is sent, which saves S3 four requests
                await obstore.put_async(self._store, stored().key, first, use_multipart=False)
            else:
                staged = f"{STAGING}/{uuid.uuid4().hex}"
                whole = _chained(first, pieces)
                await obstore.put_async(self._store, staged, whole, chunk_size=PART, max_concurrency=2)
                await obstore.rename_async(self._store, staged, stored().key)
        except BaseError as problem:
            raise StoreDown(f"The store did not take the object: {problem}") from problem
        await asyncio.to_thread(self._settle, stored().key)  # a slow disk must not hold up other requests
        return stored()

    async def read(self, key: str, byte_range: tuple[int, int] | None = None) -> AsyncIterator[bytes]:
        """The object, or its bytes from the first to before the last offset, in chunks of about 1 MiB."""
        with _translated(key):
            if byte_range is None:
                result = await obstore.get_async(self._store, key)
            else:
                options: obstore.GetOptions = {"range": byte_range}
                result = await obstore.get_async(self._store, key, options=options)
            async for chunk in result.stream(min_chunk_size=BATCH):
                yield bytes(chunk)

    async def size(self, key: str) -> int:
        """The object's length in bytes; raises Missing."""
        with _translated(key):
            return (await obstore.head_async(self._store, key))["size"]

    def presign(self, key: str, seconds: float) -> str | None:
        """A URL that anyone may GET for so long, or None where the store cannot sign (a local folder)."""
        if isinstance(self._store, LocalStore):
            return None
        return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    async def delete(self, key: str) -> None:
        """The object is gone; that it was not there is no error."""
        try:
            with _translated(key):
                await obstore.delete_async(self._store, key)
        except Missing:
            return

    async def probe(self) -> None:
        """An object could be written, read back and removed just now; raises StoreDown."""
        key = f"{STAGING}/probe-{uuid.uuid4().hex}"
        with _translated(key):
            await obstore.put_async(self._store, key, b"ok", use_multipart=False)
            found = bytes(await (await obstore.get_async(self._store, key)).bytes_async())
            await obstore.delete_async(self._store, key)
        if found != b"ok":
            raise StoreDown("The store gave back other bytes than were put.")

    # for the worker, on threads

    def put_open(self, file: io.BufferedReader | io.BytesIO, key: str | None = None) -> Stored:
        """The file's bytes are in the store, under ``key`` or else their content address."""
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        stored = Stored(key or content_key(digest), digest, size)
        with _translated(stored.key):
            obstore.put(self._store, stored.key, file, chunk_size=PART, max_concurrency=2)
        self._settle(stored.key)
        return stored

    def put_file(self, path: Path, key: str | None = None) -> Stored:
        with path.open("rb") as file:
            return self.put_open(file, key)

    def fetch(self, key: str, path: Path) -> None:
        """``path`` holds the object's bytes; raises Missing, and Damaged if they are not what they were."""
        with path.open("xb") as file:
            for chunk in self.read_chunks(key):
                file.write(chunk)

    def read_chunks(self, key: str) -> Iterator[bytes]:
        """The object in chunks of about 1 MiB; raises Damaged after the last if they were not what they should be."""
        digest = hashlib.sha256()
        with _translated(key):
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=BATCH):
                piece = bytes(chunk)
                digest.update(piece)
                yield piece
        if _sha256_of(key) not in (None, digest.hexdigest()):
            raise Damaged(f"The object {key!r} has other bytes than were stored.")

    def is_intact(self, key: str) -> bool:
        """Whether the object is there with the bytes it is named after; read whole once, and again when it changed."""
        try:
            with _translated(key):
                facts = obstore.head(self._store, key)
            version = (key, facts["size"], facts["last_modified"], facts["e_tag"])
            if version in self._found_right:
                return True
            for _ in self.read_chunks(key):
                pass
        except Missing:
            return False
        self._found_right[version] = None
        while len(self._found_right) > REMEMBERED:
            with suppress(KeyError):  # another thread was faster
                self._found_right.popitem(last=False)
        return True

    def exists(self, key: str) -> bool:
        try:
            with _translated(key):
                obstore.head(self._store, key)
        except Missing:
            return False
        return True

    def delete_now(self, *keys: str) -> None:
        """The objects are gone; that one was not there is no error."""
        for key in keys:
            try:
                with _translated(key):
                    obstore.delete(self._store, key)
            except Missing:
                continue

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every visible object whose key begins with the folder ``prefix``."""
        with _translated(prefix):
            for page in obstore.list(self._store, prefix):
                for entry in page:
                    yield StoredObject(entry["path"], entry["size"], entry["last_modified"])

    def sweep_staging(self, before: datetime) -> int:
        """What uploads that died before ``before`` left behind is removed; how many there were."""
        removed = 0
        if self.folder is None:
            stale = [each.key for each in self.list(STAGING) if each.modified < before]
            self.delete_now(*stale)
            return len(stale)
        for path in self.folder.rglob("*"):  # a killed put leaves NAME#1, which listings rightly do not show
            staged = path.parent.name == STAGING or "#" in path.name
            if staged and path.is_file() and path.stat().st_mtime < before.timestamp():
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _settle(self, key: str) -> None:
        """On a local disk the object also survives a power cut."""
        if self.folder is None:
            return
        path = self.folder / key
        for place in (path, path.parent):
            descriptor = os.open(place, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


async def _chained(first: bytes, following: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in following:
        yield piece


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """obstore's errors become ours, which name the key."""
    try:
        yield
    except FileNotFoundError as problem:
        raise Missing(f"There is no object {key!r} in the store.") from problem
    except BaseError as problem:
        raise StoreDown(f"The store failed at {key!r}: {problem}") from problem
