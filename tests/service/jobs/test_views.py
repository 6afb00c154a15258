"""`GET /jobs/{id}` has entity tags for clients that poll, and reports the stages of the work."""

from serving import Site


def test_a_client_that_knows_the_state_is_told_only_that(site: Site) -> None:
    job_id = site.submit()
    tag = site.http.get(f"/jobs/{job_id}").headers["ETag"]

    same = site.http.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    site.start(job_id)
    changed = site.http.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})

    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    assert same.headers["Retry-After"] == "1"
    assert (changed.status_code, changed.json()["state"]) == (200, "running")
    assert changed.headers["ETag"] != tag
    assert changed.headers["Cache-Control"] == "private, no-cache"


def test_an_ended_job_and_its_result_say_what_took_how_long(site: Site) -> None:
    job_id = site.submit()
    assert "Server-Timing" not in site.http.get(f"/jobs/{job_id}").headers
    site.succeed(job_id)

    for address in (f"/jobs/{job_id}", f"/jobs/{job_id}/result"):
        timing = site.http.get(address).headers["Server-Timing"]
        assert timing == "queue;dur=100.0, decode;dur=100.0, infer;dur=100.0, encode;dur=100.0"
