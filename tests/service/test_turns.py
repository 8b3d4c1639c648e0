"""Writers of one SQLite file wait for each other, between threads and between processes."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from service import database as tables
from service.database import Database
from service.settings import Settings
from service.turns import take_turns


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = Database(Settings(data_dir=tmp_path))
    found.migrate()
    return found


def put(connection: sa.Connection, name: str) -> None:
    connection.execute(tables.secrets.insert().values(name=name, value=""))


def names(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(connection.execute(sa.select(tables.secrets.c.name)).scalars())


def is_taken(folder: Path) -> bool:
    with (folder / "zsq.sqlite3-turn").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_many_threads_of_two_processes_write_without_an_error(database: Database, tmp_path: Path) -> None:
    other = Database(Settings(data_dir=tmp_path))  # a turn of its own on the same file, as in another process
    failures: list[Exception] = []

    def write(each: Database, start: int) -> None:
        try:
            for number in range(start, start + 10):
                with each.writing() as connection:
                    put(connection, str(number))
        except Exception as problem:  # told by the main thread
            failures.append(problem)

    threads = [
        threading.Thread(target=write, args=((database, other)[number % 2], 10 * number)) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(database) == {str(number) for number in range(120)}


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(6)
    failures: list[Exception] = []

    def opened(folder: Path) -> None:
        each = Database(Settings(data_dir=folder))  # with a turn of its own, as in another process
        together.wait()
        try:
            each.migrate()
        except Exception as problem:  # told by the main thread
            failures.append(problem)
        each.dispose()

    for number in range(5):
        threads = [threading.Thread(target=opened, args=(tmp_path / str(number),)) for _ in range(together.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_who_reads_waits_for_no_writer_and_cannot_write(database: Database) -> None:
    with database.writing() as connection:
        put(connection, "a")
        assert names(database) == set()
    with database.reading() as connection, pytest.raises(sa.exc.OperationalError, match="readonly"):
        put(connection, "b")
    assert names(database) == {"a"}


def test_a_plain_insert_takes_the_turn_too_and_reading_does_not(database: Database, tmp_path: Path) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.select(tables.secrets)).all()
        assert not is_taken(tmp_path)
        put(connection, "a")
        assert is_taken(tmp_path)
    assert not is_taken(tmp_path)


def test_the_turn_is_given_back_after_an_error(database: Database, tmp_path: Path) -> None:
    def write_twice() -> None:
        with database.writing() as connection:
            put(connection, "a")
            put(connection, "a")

    with pytest.raises(sa.exc.IntegrityError):
        write_twice()
    assert not is_taken(tmp_path)
    with database.engine.connect() as connection:
        put(connection, "b")
        connection.invalidate()
        assert not is_taken(tmp_path)
    assert names(database) == set()


def test_who_waits_too_long_is_told_so(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'x'}")
    take_turns(engine, tmp_path / "turn", seconds=0.01)
    with engine.begin() as first, engine.connect() as second:
        first.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(sa.exc.TimeoutError, match="Another thread"):
            second.exec_driver_sql("BEGIN IMMEDIATE")
