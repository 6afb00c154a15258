"""Each API key has a rate limit and a daily limit of pixels."""

from pathlib import Path

import pytest
from factories import engine_info, register
from serving import Serve, Site, problem_of

from service.access.auth import hash_key
from service.app import create_app
from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid


@pytest.fixture
def limited(serve: Serve, tmp_path: Path) -> Site:
    """A service that accepts two pictures an hour from each of two keys."""
    file = tmp_path / "keys"
    file.write_text(f"ann:{hash_key('ann')}\nben:{hash_key('ben')}\n")
    site = serve(api_keys_file=file, rate_limit="2/hour")
    register(site.redis, engine_info())
    return site


def test_a_key_that_sends_too_often_is_told_when_to_go_on(limited: Site) -> None:
    answers = [limited.post(headers={"X-API-Key": "ann"}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert [a.headers["RateLimit"].split(";")[1] for a in answers[:2]] == ["r=1", "r=0"]
    assert answers[0].headers["RateLimit-Policy"] == '"uploads";q=2;w=3600'
    assert problem_of(answers[2]) == "rate-exceeded"
    assert 0 < int(answers[2].headers["Retry-After"]) <= 7200
    assert len(limited.stored()) == 2
    assert limited.http.get("/limits").json()["rate_limit"] == "2/hour"


def test_keys_are_counted_apart(limited: Site) -> None:
    for _ in range(3):
        limited.post(headers={"X-API-Key": "ann"})

    assert limited.post(headers={"X-API-Key": "ben"}).status_code == 202


def test_without_a_rate_nothing_is_counted(site: Site) -> None:
    assert "RateLimit" not in site.post().headers


def test_a_rate_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="GDSR_RATE_LIMIT"):
        create_app(ServiceSettings(blob_dir=tmp_path, rate_limit="often"))


def test_a_key_has_so_many_pixels_a_day(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann:{hash_key('ann')}\nben:{hash_key('ben')}\n")
    site = serve(api_keys_file=file, pixels_per_day=1300, rate_limit="9/hour")
    register(site.redis, engine_info())

    answers = [site.post(headers={"X-API-Key": "ann"}) for _ in range(3)]  # 600 pixels each

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[1].headers["RateLimit-Policy"] == '"uploads";q=9;w=3600, "pixels";q=1300;w=86400'
    assert [a.headers["RateLimit"].split('"pixels";')[1].split(";")[0] for a in answers[:2]] == [
        "r=700",
        "r=100",
    ]
    assert problem_of(answers[2]) == "pixels-exceeded"
    assert answers[2].json()["limits"] == {"pixels_per_day": 1300}
    assert 0 < int(answers[2].headers["Retry-After"]) <= 86400
    assert len(site.stored()) == 2
    assert site.post(headers={"X-API-Key": "ben"}).status_code == 202


def test_each_of_several_rates_holds(serve: Serve) -> None:
    site = serve(rate_limit="5/hour;2/minute")
    register(site.redis, engine_info())

    answers = [site.post() for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"uploads";q=2;w=60'
    assert "2 per 1 minute" in answers[2].json()["detail"]
