"""`POST /batches/{id}/result` derives other results from a finished batch."""

import io
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2
import numpy as np
import pytest
from archives import zipped
from factories import engine_info, register
from PIL import Image
from processes import wait_for
from serving import PICTURE, Serve, Site, problem_of, working

from service.access.auth import hash_key
from workers.contract.blobs.file import FileBlobStore
from workers.contract.errors import ArchiveInvalid, ImageCorrupt
from workers.contract.queue.batches import pack_key
from workers.contract.queue.jobs import OUTPUTS
from workers.contract.queue.runs import SMALL, open_queue
from workers.pictures.formats.png import encode_png
from workers.pictures.picture import Picture
from workers.tasks.blend import blend
from workers.tasks.pack import pack
from workers.tasks.unpack import unpack

HEIGHT, WIDTH = 80, 120
#: Uniform level of each branch.
LEVELS = dict(zip(OUTPUTS, (40, 100, 200), strict=True))


def sent(site: Site, names: Sequence[str] = ("a/cat.png", "dog.png"), **options: str) -> str:
    """Send and unpack a batch and return its id; `notes.txt` is no picture."""
    files = {name: b"no picture" if name.endswith(".txt") else PICTURE for name in names}
    options = {"keep_branches": "true"} | options
    headers = {"Content-Type": "application/zip", "X-API-Key": options.pop("key", "")}
    answer = site.http.post("/batches", content=zipped(files), params=options, headers=headers)
    assert answer.status_code == 202, answer.text
    batch_id: str = answer.json()["id"]
    with working(site):
        unpack(batch_id)
    return batch_id


def items(site: Site, batch_id: str, key: str = "") -> list[dict[str, Any]]:
    view = site.http.get(f"/batches/{batch_id}", headers={"X-API-Key": key}).json()
    found: list[dict[str, Any]] = view["items"]
    return found


def finish(site: Site, job_id: str, *, kept: timedelta = timedelta(hours=1)) -> None:
    """End a job with branches of one colour each."""
    branches = {}
    for output, level in (LEVELS | {"mask": 255}).items():
        colour = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
        data = encode_png(Picture(colour=colour, grey=output == "mask"))
        branches[output] = site.blobs.write(f"results/{job_id}.run.{output}.png", [data])
    site.succeed(job_id, b"picture", branches=branches, kept=kept)


def finished(site: Site, names: Sequence[str] = ("a/cat.png", "dog.png"), **options: str) -> str:
    batch_id = sent(site, names, **options)
    for item in items(site, batch_id, options.get("key", "")):
        if item["job"]:
            finish(site, item["job"])
    return batch_id


def post(site: Site, batch_id: str, key: str = "", **params: Any) -> httpx2.Response:
    headers = {"X-API-Key": key}
    return site.http.post(f"/batches/{batch_id}/result", params=params, headers=headers)


def made(site: Site, asked: httpx2.Response) -> dict[str, bytes]:
    """Run the derived batch as workers do and return the files of its zip."""
    assert asked.status_code == 202, asked.text
    batch = asked.json()
    with working(site):
        for item in batch["items"]:
            if item["state"] == "queued":
                blend(item["job"])
    assert site.http.get(batch["links"]["result"]).status_code == 202
    with working(site):
        pack(batch["id"])
    answer = site.http.get(batch["links"]["result"])
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def colour(data: bytes) -> tuple[str | None, tuple[int, int], Any]:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.format, opened.size, opened.convert("RGB").getpixel((5, 5))


def results(site: Site) -> list[str]:
    return [key for key in site.stored() if key.startswith("results/")]


@pytest.fixture
def site(serve: Serve) -> Site:
    site = serve(max_queued_jobs=4)
    register(site.redis, engine_info())
    return site


def test_every_picture_gets_another_position_format_and_size(site: Site) -> None:
    batch_id = finished(site, ("a/cat.png", "dog.png", "notes.txt"))

    asked = post(site, batch_id, trade_off=0.25, format="webp", width=60)
    files = made(site, asked)

    assert asked.headers["Location"] == asked.json()["links"]["self"]
    assert asked.json()["state"] == "running"
    assert list(files) == ["a/cat.webp", "dog.webp", "notes.txt.txt"]
    format_name, size, (level, _, _) = colour(files["a/cat.webp"])
    assert (format_name, size) == ("WEBP", (60, 40))
    assert abs(level - 70) <= 2  # between 40 (faithful) and 100 (balanced)


def test_a_repeat_is_the_same_batch_and_its_zip(site: Site) -> None:
    batch_id = finished(site)
    first = post(site, batch_id, trade_off=1)
    form = {"trade_off": (None, "1")}
    again = site.http.post(f"/batches/{batch_id}/result", files=form)
    assert again.status_code == 202, again.text
    other = post(site, batch_id, trade_off=0)
    assert other.status_code == 202, other.text
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert len(site.records.active()) == 4

    made(site, first)
    done = post(site, batch_id, trade_off=1)

    assert (done.status_code, done.headers["Content-Type"]) == (200, "application/zip")
    assert done.headers["Content-Location"] == first.json()["links"]["result"]


def test_requests_with_the_same_results_are_the_same_batch(site: Site) -> None:
    batch_id = finished(site)

    by_output = post(site, batch_id, output="gan").json()["id"]
    by_position = post(site, batch_id, trade_off=1, format="png").json()["id"]
    smaller = post(site, batch_id, output="gan", width=60).json()["id"]

    assert by_output == by_position != smaller


def test_a_job_that_another_request_queues_at_the_same_time_is_queued_once(serve: Serve) -> None:
    site = serve(rate_limit="9/hour")
    register(site.redis, engine_info())
    batch_id = finished(site)
    first, second = (item["job"] for item in items(site, batch_id))
    services = site.server.app.state.services
    again = site.http.get(f"/jobs/{first}/result", params={"trade_off": 1}).json()["id"]
    gone = site.succeed(again).result
    assert gone is not None
    site.blobs.delete(gone.key)

    class Meanwhile(FileBlobStore):
        """Another request comes after the batch has read its jobs."""

        other = ""

        def exists(self, key: str) -> bool:
            if key == gone.key and not self.other:
                self.other = "asked"
                answer = site.http.get(f"/jobs/{second}/result", params={"trade_off": 1})
                self.other = answer.json()["id"]
            return super().exists(key)

    services.blobs = Meanwhile(site.blobs.root)
    asked = post(site, batch_id, trade_off=1)

    assert asked.status_code == 202, asked.text
    assert {item["job"]: item["state"] for item in asked.json()["items"]} == {
        again: "queued",
        services.blobs.other: "queued",
    }
    assert open_queue(SMALL, site.redis).job_ids.count(services.blobs.other) == 1
    # two uploads and three derived results count
    assert "r=3" in site.post().headers["RateLimit"]


def test_a_derived_result_that_is_asked_for_twice_at_once_counts_once(serve: Serve) -> None:
    site = serve(rate_limit="9/hour")
    register(site.redis, engine_info())
    source = finished(site, ("cat.png",))
    address = f"/jobs/{items(site, source)[0]['job']}/result"
    gone = site.succeed(site.http.get(address, params={"trade_off": 1}).json()["id"]).result
    assert gone is not None
    site.blobs.delete(gone.key)

    class Meanwhile(FileBlobStore):
        """The same request comes again after the first has read the job."""

        asked = False

        def exists(self, key: str) -> bool:
            if key == gone.key and not self.asked:
                self.asked = True
                assert site.http.get(address, params={"trade_off": 1}).status_code == 202
            return super().exists(key)

    site.server.app.state.services.blobs = Meanwhile(site.blobs.root)
    assert site.http.get(address, params={"trade_off": 1}).status_code == 202

    # one upload and two derived results count
    assert "r=5" in site.post().headers["RateLimit"]


def test_one_format_for_all_is_another_batch_than_the_format_of_each(site: Site) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (30, 20)).save(jpeg, "JPEG")
    answer = site.http.post(
        "/batches",
        content=zipped({"a.png": PICTURE, "b.jpg": jpeg.getvalue()}),
        params={"keep_branches": "true", "format": "same"},
        headers={"Content-Type": "application/zip"},
    )
    batch_id = answer.json()["id"]
    with working(site):
        unpack(batch_id)
    for item in items(site, batch_id):
        finish(site, item["job"])

    own = post(site, batch_id, trade_off=1).json()
    png = post(site, batch_id, trade_off=1, format="png").json()

    assert own["id"] != png["id"]
    assert [item["state"] for item in items(site, own["id"])] == ["queued"] * 2


def test_without_a_change_it_is_the_batch_itself(site: Site) -> None:
    batch_id = finished(site)

    assert post(site, batch_id).json()["id"] == batch_id
    assert post(site, batch_id, trade_off=0.5, format="png").json()["id"] == batch_id
    assert site.records.active() == []


def test_a_request_that_waits_gets_the_zip_at_once(site: Site) -> None:
    batch_id = finished(site)
    made(site, post(site, batch_id, trade_off=1))

    answer = site.http.post(
        f"/batches/{batch_id}/result", params={"trade_off": 1}, headers={"Prefer": "wait=9"}
    )

    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=9"


def test_a_request_that_waits_gets_the_zip_when_the_jobs_end_and_costs_few_reads(
    serve: Serve,
) -> None:
    site = serve()
    register(site.redis, engine_info())
    batch_id = finished(site, [f"{number}.png" for number in range(20)])
    other = post(site, batch_id, trade_off=1).json()

    def reads() -> int:
        calls: int = site.redis.info("commandstats")["cmdstat_hgetall"]["calls"]
        return calls

    def waiting(seconds: int) -> httpx2.Response:
        return site.http.post(
            f"/batches/{batch_id}/result",
            params={"trade_off": 1},
            headers={"Prefer": f"wait={seconds}"},
        )

    before = reads()
    assert waiting(0).status_code == 202
    without = reads() - before
    assert waiting(2).status_code == 202
    with_wait = reads() - before - without

    assert with_wait - without < 2 * len(other["items"])
    with working(site), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(waiting, 50)
        for item in other["items"]:
            blend(item["job"])
        wait_for(lambda: site.redis.exists(pack_key(other["id"])), what="the packing")
        pack(other["id"])
        assert answer.result().status_code == 200


def test_an_unfinished_batch_says_when_to_come_again(site: Site) -> None:
    batch_id = sent(site)

    answer = post(site, batch_id, trade_off=1)

    assert (answer.status_code, problem_of(answer)) == (409, "batch-not-finished")
    assert "try again later" in answer.json()["detail"]
    assert answer.headers["Retry-After"] == "1"


def test_a_job_without_kept_branches_is_refused(site: Site) -> None:
    plain = sent(site, ("cat.png",), keep_branches="false")
    site.succeed(items(site, plain)[0]["job"])
    old = sent(site, ("cat.png",))
    finish(site, items(site, old)[0]["job"], kept=timedelta(seconds=-1))

    without, expired = post(site, plain, trade_off=1), post(site, old, trade_off=1)

    assert (without.status_code, problem_of(without)) == (404, "branches-not-kept")
    assert "keep_branches=true" in without.json()["detail"]
    assert (expired.status_code, problem_of(expired)) == (410, "batch-expired")
    assert post(site, plain, format="webp").status_code == 202  # converts a PNG result


def test_a_picture_that_failed_or_expired_fails_alone(site: Site) -> None:
    batch_id = sent(site, ("good.png", "bad.png", "old.png"))
    good, bad, old = (item["job"] for item in items(site, batch_id))
    finish(site, good)
    site.records.fail(bad, error=ImageCorrupt("it has holes"))
    finish(site, old, kept=timedelta(seconds=-1))

    files = made(site, post(site, batch_id, trade_off=1))

    assert list(files) == ["good.png", "bad.png.txt", "old.png.txt"]
    assert b"image-corrupt" in files["bad.png.txt"]
    assert b"job-expired" in files["old.png.txt"]
    assert colour(files["good.png"])[2] == (200, 200, 200)


BAD = {
    "trade_off": {"trade_off": "2"},
    "format": {"format": "doc"},
    "quality": {"quality": "0"},
    "region": {"region": "100,0,30,10"},
    "width": {"width": "0"},
    "map": {"map": "x"},
    "name": {"name": "x.png"},
    "output": {"output": "gan", "trade_off": "1"},
}


@pytest.mark.parametrize("field", BAD)
def test_a_wrong_field_is_named(site: Site, field: str) -> None:
    batch_id = finished(site, ("cat.png",))

    answer = post(site, batch_id, **BAD[field])

    assert (answer.status_code, problem_of(answer)) == (422, "invalid-request")
    assert [fault["name"] for fault in answer.json()["errors"]] == [field]
    assert site.records.active() == []


@pytest.mark.parametrize(
    "body",
    [
        {"files": {"map": ("map.png", PICTURE)}},
        {"content": PICTURE, "headers": {"Content-Type": "image/png"}},
        {"json": {"trade_off": 1}},
    ],
)
def test_a_file_does_not_belong_here(site: Site, body: dict[str, Any]) -> None:
    answer = site.http.post(f"/batches/{finished(site)}/result", **body)

    assert (answer.status_code, problem_of(answer)) == (422, "invalid-request")
    assert site.records.active() == []


def test_a_full_queue_takes_all_pictures_of_a_batch_or_none(site: Site) -> None:
    batch_id = finished(site, ("a.png", "b.png", "c.png"))
    for _ in range(2):
        site.submit()

    answer = post(site, batch_id, trade_off=1)

    assert (answer.status_code, problem_of(answer)) == (503, "queue-full")
    assert len(site.records.active()) == 2


@pytest.mark.parametrize("refusal", ["queue-full", "rate-exceeded", "pixels-exceeded"])
def test_a_derived_batch_outlives_a_repeat_that_is_refused(serve: Serve, refusal: str) -> None:
    limits: dict[str, Any] = {
        "queue-full": {"max_queued_jobs": 2},
        "rate-exceeded": {"rate_limit": "4/hour"},
        "pixels-exceeded": {"pixels_per_day": 1200 + 2 * 37},
    }[refusal]
    site = serve(**limits)
    register(site.redis, engine_info())
    batch_id = finished(site)
    first = post(site, batch_id, trade_off=1)
    files = made(site, first)
    (_, second) = items(site, first.json()["id"])
    result = site.records.get(second["job"]).result
    assert result is not None
    site.blobs.delete(result.key)  # it has to be made again
    for _ in range(limits.get("max_queued_jobs", 0)):
        site.submit()

    refused = post(site, batch_id, trade_off=1)

    assert problem_of(refused) == refusal
    kept = site.http.get(first.json()["links"]["result"])
    assert kept.status_code == 200, kept.text
    with zipfile.ZipFile(io.BytesIO(kept.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files


def test_rate_and_pixels_count_each_picture_and_a_repeat_nothing(serve: Serve) -> None:
    site = serve(rate_limit="5/hour", pixels_per_day=1300)
    register(site.redis, engine_info())
    batch_id = finished(site)  # two pictures of 600 pixels; a derived result costs a sixteenth

    first = post(site, batch_id, trade_off=1)
    again = post(site, batch_id, trade_off=1)
    beyond_rate = post(site, batch_id, trade_off=0)

    assert (first.status_code, again.status_code) == (202, 202)
    assert (beyond_rate.status_code, problem_of(beyond_rate)) == (429, "rate-exceeded")
    assert int(site.redis.get(site.redis.keys("gdsr:pixels:*")[0])) == 1200 + 2 * 37


def test_pixels_beyond_the_day_are_refused(serve: Serve) -> None:
    site = serve(pixels_per_day=1250)
    register(site.redis, engine_info())

    answer = post(site, finished(site), trade_off=1)

    assert (answer.status_code, problem_of(answer)) == (429, "pixels-exceeded")


def test_only_the_own_key_may(serve: Serve, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"a:{hash_key('key a')}\nb:{hash_key('key b')}\n")
    site = serve(api_keys_file=keys)
    register(site.redis, engine_info())
    batch_id = finished(site, key="key a")

    other, unknown = post(site, batch_id, "key b"), post(site, "0" * 32, "key a")
    derived = post(site, batch_id, "key a", trade_off=1).json()["id"]

    for answer in (other, unknown, post(site, derived, "key b")):
        assert (answer.status_code, problem_of(answer)) == (404, "batch-not-found")
    assert problem_of(post(site, batch_id)) == "key-missing"


def test_erasing_the_batch_erases_what_was_derived(site: Site) -> None:
    batch_id = finished(site)
    derived = post(site, batch_id, trade_off=1)
    made(site, derived)
    further = post(site, derived.json()["id"], format="webp")
    made(site, further)

    assert site.http.delete(f"/batches/{batch_id}").status_code == 204

    assert site.stored() == site.records.active() == []
    for view in (derived.json(), further.json()):
        assert site.http.get(view["links"]["self"]).status_code == 404
    assert site.redis.keys("gdsr:job:*") == site.redis.keys("gdsr:zip:*") == []


def test_erasing_a_derived_batch_leaves_the_first_one(site: Site) -> None:
    batch_id = finished(site)
    before = results(site)
    derived = post(site, batch_id, trade_off=1)
    made(site, derived)

    assert site.http.delete(derived.json()["links"]["self"]).status_code == 204

    assert results(site) == before
    assert [item["state"] for item in items(site, batch_id)] == ["succeeded"] * 2
    assert made(site, post(site, batch_id, trade_off=1)).keys() == {"a/cat.png", "dog.png"}


def test_erasing_one_picture_takes_it_out_of_every_zip(site: Site) -> None:
    batch_id = finished(site)
    derived = post(site, batch_id, trade_off=1)
    made(site, derived)

    site.http.delete(f"/jobs/{items(site, batch_id)[0]['job']}")

    assert [key for key in site.stored() if key.endswith(".zip")] == []
    assert list(made(site, post(site, batch_id, trade_off=1))) == ["a/cat.png.txt", "dog.png"]


def test_a_failed_batch_tells_its_failure(site: Site) -> None:
    answer = site.http.post(
        "/batches", content=zipped({"a.png": PICTURE}), headers={"Content-Type": "application/zip"}
    )
    batch_id = answer.json()["id"]
    site.server.app.state.services.batches.records.fail(batch_id, error=ArchiveInvalid("cut off"))

    answer = post(site, batch_id, trade_off=1)

    assert answer.json()["type"] == "/problems/archive-invalid"
    assert answer.json()["instance"] == f"/batches/{batch_id}"
