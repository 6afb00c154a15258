"""`/admin` requires an admin key."""

from pathlib import Path

import pytest
from factories import engine_info, register
from serving import Serve, Site, problem_of

from service.access.auth import hash_key
from workers.contract.queue import reload
from workers.contract.queue.reload import EngineReport, ModelChange

KEY = {"X-API-Key": "the admin's"}


@pytest.fixture
def keyed(serve: Serve, tmp_path: Path) -> Site:
    """A service with an admin key and an API key."""
    admins, users = tmp_path / "admins", tmp_path / "users"
    admins.write_text(f"admin:{hash_key(KEY['X-API-Key'])}\n")
    users.write_text(f"ann:{hash_key('ann-key')}\n")
    return serve(admin_keys_file=admins, api_keys_file=users)


@pytest.mark.parametrize(
    ("headers", "slug"),
    [({}, "key-missing"), ({"X-API-Key": "ann-key"}, "key-invalid")],
)
def test_a_reload_needs_an_admin_key(keyed: Site, headers: dict[str, str], slug: str) -> None:
    for response in (
        keyed.http.post("/admin/reload", headers=headers),
        keyed.http.get("/admin/reload/1", headers=headers),
    ):
        assert (response.status_code, problem_of(response)) == (401, slug)
    assert reload.last_request(keyed.redis) == 0


def test_without_admin_keys_a_reload_is_refused(site: Site) -> None:
    response = site.http.post("/admin/reload", headers=KEY)

    assert (response.status_code, problem_of(response)) == (403, "admin-off")
    assert "GDSR_ADMIN_KEYS_FILE" in response.json()["detail"]
    assert reload.last_request(site.redis) == 0


def test_the_answer_names_where_each_engine_tells_what_it_did(keyed: Site) -> None:
    engine = engine_info()
    register(keyed.redis, engine)

    response = keyed.http.post("/admin/reload", headers=KEY)

    assert response.status_code == 202
    where = response.headers["Location"]
    asked = response.json()
    assert where == f"/admin/reload/{asked['number']}"
    assert reload.last_request(keyed.redis) == asked["number"]
    assert [one["done"] for one in asked["engines"]] == [asked["done"]] == [False]

    change = ModelChange(name="lite", change="kept", sha256="0" * 64, reason="it is damaged")
    reload.report(keyed.redis, asked["number"], engine.id, EngineReport(models=(change,)))

    told = keyed.http.get(where, headers=KEY).json()
    assert told["done"] is True
    assert told["engines"][0]["models"] == [change.model_dump()]


def test_an_engine_that_was_started_since_has_looked(keyed: Site) -> None:
    where = keyed.http.post("/admin/reload", headers=KEY).headers["Location"]
    assert keyed.http.get(where, headers=KEY).json()["done"] is False  # no engine runs

    register(keyed.redis, engine_info().model_copy(update={"reloaded": 1}))

    assert keyed.http.get(where, headers=KEY).json()["done"] is True


def test_a_request_that_never_was_is_not_found(keyed: Site) -> None:
    response = keyed.http.get("/admin/reload/17", headers=KEY)

    assert (response.status_code, problem_of(response)) == (404, "not-found")
