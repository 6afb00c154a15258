"""An API key gives access to its owner's jobs and to no others."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from factories import engine_info, register
from serving import Serve, Site, problem_of

from service.access.auth import hash_key, load_api_keys
from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid

ANN, BEN = {"Authorization": "Bearer ann-key"}, {"X-API-Key": "ben-key"}


@pytest.fixture
def keyed(serve: Serve, tmp_path: Path) -> Site:
    """A service with API keys for two owners."""
    file = tmp_path / "keys"
    file.write_text(f"# two\n\nann:{hash_key('ann-key')}\nben:{hash_key('ben-key')}\n")
    site = serve(api_keys_file=file)
    register(site.redis, engine_info())
    return site


def job_of(site: Site, key: dict[str, str]) -> str:
    response = site.post(headers=key)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


@pytest.mark.parametrize(
    ("headers", "slug"),
    [
        ({}, "key-missing"),
        ({"X-API-Key": "other"}, "key-invalid"),
        ({"Authorization": "Bearer ann"}, "key-invalid"),
    ],
)
def test_without_a_known_key_nothing_is_accepted_or_shown(
    keyed: Site, headers: dict[str, str], slug: str
) -> None:
    for response in (
        keyed.post(headers=headers),
        keyed.http.get("/jobs", headers=headers),
        keyed.http.get("/jobs/x", headers=headers),
        keyed.http.get("/jobs/x/result", headers=headers),
        keyed.http.get("/jobs/x/events", headers=headers),
        keyed.http.delete("/jobs/x", headers=headers),
    ):
        assert response.status_code == 401
        assert problem_of(response) == slug
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert keyed.stored() == []
    assert keyed.http.get("/limits").status_code == keyed.http.get("/livez").status_code == 200


def test_a_job_is_there_for_its_own_key_alone(keyed: Site) -> None:
    job_id = job_of(keyed, ANN)
    keyed.succeed(job_id, b"picture")

    def answers(key: dict[str, str]) -> list[httpx2.Response]:
        return [
            keyed.http.get(f"/jobs/{job_id}", headers=key),
            keyed.http.get(f"/jobs/{job_id}/result", headers=key),
            keyed.http.get(f"/jobs/{job_id}/events", headers=key),
            keyed.http.delete(f"/jobs/{job_id}", headers=key),
        ]

    for response in answers(BEN):
        assert response.status_code == 404
        assert problem_of(response) == "job-not-found"
    assert [response.status_code for response in answers(ANN)] == [200, 200, 200, 204]


def test_an_idempotency_key_is_its_owners(keyed: Site) -> None:
    word = {"Idempotency-Key": "one"}

    assert job_of(keyed, ANN | word) == job_of(keyed, ANN | word) != job_of(keyed, BEN | word)


def test_jobs_are_listed_newest_first_page_by_page(keyed: Site) -> None:
    mine = [job_of(keyed, ANN) for _ in range(5)]
    job_of(keyed, BEN)

    address, seen, pages = "/jobs?limit=2", [], 0
    while address:
        page = keyed.http.get(address, headers=ANN).json()
        seen += [job["id"] for job in page["jobs"]]
        address, pages = page["next"], pages + 1

    assert seen == mine[::-1]
    assert pages == 3


def test_a_page_stays_where_it_was_when_jobs_come_and_go(keyed: Site) -> None:
    mine = [job_of(keyed, ANN) for _ in range(4)]
    first = keyed.http.get("/jobs?limit=2", headers=ANN).json()
    job_of(keyed, ANN)
    keyed.succeed(mine[2])
    keyed.http.delete(f"/jobs/{mine[2]}", headers=ANN)

    second = keyed.http.get(first["next"], headers=ANN).json()

    assert [job["id"] for job in second["jobs"]] == [mine[1], mine[0]]
    assert second["next"] is None


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "cursor=x", "cursor=a:b", "cursor=nan:a"]
)
def test_a_page_that_cannot_be_is_a_problem(keyed: Site, query: str) -> None:
    response = keyed.http.get(f"/jobs?{query}", headers=ANN)

    assert problem_of(response) == "invalid-request"


def test_on_loopback_without_keys_all_jobs_are_listed(site: Site) -> None:
    ids = [site.submit(), site.submit()]

    page = site.http.get("/jobs").json()

    assert [job["id"] for job in page["jobs"]] == ids[::-1]
    assert [job["queue_position"] for job in page["jobs"]] == [1, 0]


BROKEN = {
    "no digest": "ann:secret",
    "no name": f":{'0' * 64}",
    "twice": f"ann:{'0' * 64}\nann:{'1' * 64}",
    "nothing": "# nobody",
}


def test_comments_and_empty_lines_may_be_indented(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# people\n  # of the first floor\n \t\nann:{'0' * 64}\n")

    assert load_api_keys(ServiceSettings(api_keys_file=file)) == {"ann": "0" * 64}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_wrong_is_refused_at_the_start(tmp_path: Path, case: str) -> None:
    file = tmp_path / "keys"
    file.write_text(BROKEN[case])

    with pytest.raises(ConfigurationInvalid, match="GDSR_API_KEYS_FILE") as refused:
        load_api_keys(ServiceSettings(api_keys_file=file))
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigurationInvalid, match="GDSR_API_KEYS_FILE"):
        load_api_keys(ServiceSettings(api_keys_file=tmp_path / "none"))


@pytest.mark.parametrize(
    ("host", "loud"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("192.0.2.1", True)],
)  # fmt: skip
def test_a_public_address_without_keys_is_logged_as_a_warning(
    caplog: pytest.LogCaptureFixture, host: str, loud: bool  # noqa: FBT001
) -> None:  # fmt: skip
    load_api_keys(ServiceSettings(host=host))

    warned = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert bool(warned) is loud


def test_a_new_key_fits_its_line() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "service", "--new-key", "ann"],
        check=True,
        capture_output=True,
        text=True,
    )
    key = made.stderr.split()[-1]

    assert made.stdout == f"ann:{hash_key(key)}\n"
    assert len(key) >= 43


@pytest.mark.parametrize("name", ["", "ann smith", "ann:0"])
def test_no_key_is_made_for_a_name_that_its_file_could_not_hold(name: str) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "service", "--new-key", name],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"GDSR_REDIS_URL": "unix:///nowhere"},  # nor does the service start
    )

    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{name!r} is not a valid key name" in refused.stderr
