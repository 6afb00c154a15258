"""An operator changes checkpoints while the service runs, with real HTTP, Redis and engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import httpx2
import pytest
from networks import tiny_checkpoint
from processes import running_valkey, wait_for
from serving import PICTURE, Site, served

from model.checkpoint import read_header
from service.access.auth import hash_key
from service.settings import ServiceSettings

pytestmark = pytest.mark.e2e
ADMIN = {"X-API-Key": "the admin's"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reload")
    (folder / "checkpoints").mkdir()
    tiny_checkpoint(folder / "checkpoints" / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    keys = folder / "keys"
    keys.write_text(f"admin:{hash_key(ADMIN['X-API-Key'])}\n")
    with running_valkey(folder / "valkey") as valkey:
        settings = ServiceSettings(
            redis_url=valkey.url, blob_dir=folder / "blobs", admin_keys_file=keys
        )
        workers = hosts.Site(valkey.url, folder / "blobs", folder / "checkpoints")
        with served(settings) as site, workers.worker_host():
            yield site


def reload(site: Site) -> dict[str, dict[str, Any]]:
    """Request a reload, wait for the engine and return its report by model."""
    asked = site.http.post("/admin/reload", headers=ADMIN)
    assert asked.status_code == 202, asked.text

    def told() -> Any:
        answer = site.http.get(asked.headers["Location"], headers=ADMIN).json()
        return answer if answer["done"] else None

    (engine,) = wait_for(told, what="the engine's report")["engines"]
    assert engine["error"] is None
    return {model["name"]: model for model in engine["models"]}


def upscaled(site: Site, model: str) -> tuple[str, bytes]:
    """Return the hash of the checkpoint that made the picture, and the picture."""
    headers = {"Prefer": "wait=60", "Cache-Control": "no-cache"}
    answer: httpx2.Response = site.post(PICTURE, params={"model": model}, headers=headers)
    assert answer.status_code == 200, answer.text
    job = site.http.get("/jobs").json()["jobs"][0]
    return job["result"]["checkpoint"], answer.content


def test_a_new_file_upscales_after_a_reload(site: Site, folder: Path) -> None:
    path = tiny_checkpoint(folder / "checkpoints" / "new.safetensors", seed=1)
    refused = site.post(params={"model": "new"})
    assert (refused.status_code, "model-unknown" in refused.text) == (422, True)

    assert reload(site)["new"]["change"] == "loaded"

    names = {model["name"] for model in site.http.get("/models").json()}
    assert {"tiny", "new"} <= names
    assert upscaled(site, "new")[0] == read_header(path).sha256
    assert upscaled(site, "tiny")[1] != upscaled(site, "new")[1]


def test_a_changed_file_makes_other_pictures_and_a_damaged_one_changes_nothing(
    site: Site, folder: Path
) -> None:
    path = folder / "checkpoints" / "tiny.safetensors"
    before, old = upscaled(site, "tiny")

    tiny_checkpoint(path, seed=2)
    assert reload(site)["tiny"]["change"] == "replaced"
    after, new = upscaled(site, "tiny")
    assert after == read_header(path).sha256 != before
    assert new != old

    path.write_bytes(path.read_bytes()[:-10])
    kept = reload(site)["tiny"]
    assert (kept["change"], kept["sha256"]) == ("kept", after)
    assert kept["reason"]
    assert upscaled(site, "tiny") == (after, new)
