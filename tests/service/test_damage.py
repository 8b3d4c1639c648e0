"""What happens when the store loses or damages what it was given: nothing false is served, and it is made anew."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from service.auth import Keys
from service.retention import Retention
from service.storage import Damaged
from tests.service.conftest import Starter
from tests.service.harness import Service
from tests.service.web import Api, served, told

MODEL = told(seconds=0.05)


def file_of(service: Service, conversion: str, artefact: str) -> Path:
    job = service.jobs.get(conversion, None)
    assert job is not None
    return service.folder / "artefacts" / job.artefacts[artefact]


def lose(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [lose, damage])
def test_a_lost_or_damaged_result_is_never_served_and_made_anew(start: Starter, harm: object) -> None:
    assert callable(harm)
    service = start()
    service.worker()
    with served(service.settings) as api:
        first = api.wait_final(api.submit(MODEL).json()["id"])
        whole = api.get(first["links"]["model"]).content
        harm(file_of(service, first["id"], "model"))
        refused = api.get(first["links"]["model"])
        assert refused.status_code == 410
        assert refused.json()["kind"] == "ResultLost"
        assert api.get(first["links"]["report"]).status_code == 200
        again = api.submit(MODEL)
        assert again.status_code == 202
        assert again.json()["reused_from"] is None
        assert api.wait_final(again.json()["id"])["status"] == "succeeded"
        assert api.get(again.json()["links"]["self"] + "/model").content == whole
        assert api.get(first["links"]["model"]).content == whole, "the same bytes have the same place"
        assert api.submit(MODEL).json()["reused_from"] is not None


def test_a_damaged_model_is_not_converted(start: Starter) -> None:
    service = start()
    job = service.submit(seconds=0.05)
    damage(service.folder / "artefacts" / job.model_key)
    with pytest.raises(Damaged):
        service.jobs.artefacts.fetch(job.model_key, service.folder / "copy")
    service.worker()
    ended = service.wait_final(job)
    assert ended.error is not None
    assert ended.error["kind"] == "ModelLost"


def test_nobody_s_results_make_way_for_another_s(start: Starter) -> None:
    service = start(auth=True, keep_bytes=20_000)
    keys = Keys(service.jobs.database)
    modest, greedy = keys.create("modest"), keys.create("greedy")
    ids: dict[str, list[str]] = {}
    with served(service.settings) as api:
        for key, count in ((modest, 1), (greedy, 8)):
            headers = {"X-API-Key": key.secret}
            for n in range(count):
                content = key.key.id.encode() + bytes([n]) * 5000
                sent = api.post(
                    "/v1/conversions", content=content, headers=headers | {"Content-Type": "application/octet-stream"}
                )
                ids.setdefault(key.key.name, []).append(sent.json()["id"])
                api.post(f"/v1/conversions/{ids[key.key.name][-1]}/cancel", headers=headers)
    Retention(service.jobs, service.settings).run()
    left = {name: [each for each in of if service.jobs.get(each, None)] for name, of in ids.items()}
    assert left["modest"] == ids["modest"], "the oldest of all, and nobody else's business"
    assert left["greedy"] == ids["greedy"][-2:]
    assert service.jobs.blobs.total() <= 20_000


def test_reports_are_packed_for_who_takes_that(start: Starter) -> None:
    service = start()
    service.worker()
    with served(service.settings) as api:
        done = api.wait_final(api.submit(MODEL).json()["id"])
        for link in ("report", "report_html"):
            plain = api.get(done["links"][link], headers={"Accept-Encoding": "identity"})
            assert "content-encoding" not in plain.headers
            with api.stream("GET", done["links"][link], headers={"Accept-Encoding": "br, gzip;q=0.5"}) as packed:
                assert packed.headers["content-encoding"] == "gzip"
                assert packed.headers["etag"] != plain.headers["etag"]
                raw = b"".join(packed.iter_raw())
            assert gzip.decompress(raw) == plain.content
            assert len(raw) < len(plain.content)
            refused = api.get(done["links"][link], headers={"Accept-Encoding": "gzip;q=0, identity"})
            assert "content-encoding" not in refused.headers
            unchanged = api.get(done["links"][link], headers={"If-None-Match": packed.headers["etag"]})
            assert unchanged.status_code == 304
        with api.stream("GET", done["links"]["model"], headers={"Accept-Encoding": "gzip"}) as model:
            assert "content-encoding" not in model.headers


def test_deleting_a_running_job_leaves_no_traceback(start: Starter) -> None:
    service = start()
    service.worker()
    job = service.submit(then="hang")
    service.wait_event(job, "checkpoint")
    assert service.jobs.delete(job.id, "local")
    other = service.wait_final(service.submit(seconds=0.05))
    assert other.status == "succeeded"
    assert "Traceback" not in service.logs()


def test_what_a_request_breaks_is_told_in_our_words(tmp_path: Path, api: Api) -> None:
    cursor = api.get("/v1/conversions", params={"cursor": "OTIyMzM3MjAzNjg1NDc3NTgwOA"})
    assert cursor.status_code == 400
    assert cursor.json()["field"] == "cursor"
    size = api.submit(b"x", {"size_budget": "half"})
    assert "Value error" not in json.dumps(size.json())


@pytest.fixture
def api(start: Starter) -> object:
    with served(start().settings) as api:
        yield api
