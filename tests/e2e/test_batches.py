"""A batch through a service and real workers returns good pictures, and errors for the others."""

import io
import zipfile
from collections.abc import Iterator

import hosts
import httpx2
import pytest
from archives import zipped
from networks import tiny_checkpoint
from PIL import Image
from processes import running_valkey, wait_for
from serving import Site, served

from service.settings import ServiceSettings

pytestmark = pytest.mark.e2e
GOOD = [hosts.noise(30, 40), hosts.noise(50, 20, seed=1)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service, and a worker host with a tiny network."""
    folder = tmp_path_factory.mktemp("batches")
    with running_valkey(folder / "valkey") as valkey:
        workers = hosts.Site(
            valkey.url, folder / "blobs", tiny_checkpoint(folder / "tiny.safetensors")
        )
        chosen = ServiceSettings(redis_url=valkey.url, blob_dir=folder / "blobs")
        with served(chosen) as site, workers.worker_host():
            yield site


def results(site: Site, sent: httpx2.Response) -> dict[str, bytes]:
    """Return the files in the zip of a new batch, once its jobs have ended."""
    assert sent.status_code == 202, sent.text
    links = sent.json()["links"]
    wait_for(
        lambda: site.http.get(links["self"]).json()["state"] == "finished", what="the last job"
    )
    response = site.http.get(links["result"], headers={"Prefer": "wait=60"})
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_of_three_pictures_two_come_back_larger_and_the_third_says_why(site: Site) -> None:
    broken = GOOD[0][:-200]
    pictures = {"a/one.png": GOOD[0], "a/broken.png": broken, "two.png": GOOD[1]}
    content = zipped(pictures, deflated=True)

    files = results(site, site.http.post("/batches", content=content))

    assert list(files) == ["a/one.png", "a/broken.png.txt", "two.png"]
    sizes = [Image.open(io.BytesIO(files[name])).size for name in ("a/one.png", "two.png")]
    assert sizes == [(160, 120), (80, 200)]
    assert b"image-corrupt" in files["a/broken.png.txt"]


def test_pictures_of_a_form_come_back_in_the_format_that_was_asked_for(site: Site) -> None:
    parts = [("image", (f"{number}.png", picture)) for number, picture in enumerate(GOOD)]

    files = results(site, site.http.post("/batches", files=parts, data={"format": "webp"}))

    assert list(files) == ["0.webp", "1.webp"]
    assert {Image.open(io.BytesIO(content)).format for content in files.values()} == {"WEBP"}
