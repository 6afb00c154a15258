"""A Redis primary with Sentinels is killed under load, and no job is lost or doubled."""

import sys
import time
from pathlib import Path

import httpx2
import pytest
from drills.site import DrillSite, barcode, drill_site
from networks import tiny_checkpoint
from processes import wait_for
from sentinels import watched_valkeys

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def asked_again(site: DrillSite) -> httpx2.Response:
    """Repeat a request whose job exists already, which creates no second job."""
    return httpx2.post(
        f"{site.url}/upscale?trade_off=0", content=barcode(0),
        headers={"Idempotency-Key": "drill-0"}, timeout=40, trust_env=False,
    )  # fmt: skip


def taken(answer: httpx2.Response, refused: list[httpx2.Response]) -> bool:
    """Return whether the request was accepted; keep the answer if it was refused."""
    if answer.is_success:
        return True
    refused.append(answer)
    return False


@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param(20, marks=pytest.mark.slow, id="short"),
        pytest.param(200, marks=pytest.mark.long, id="long"),
    ],
)
def test_a_primary_that_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors", consistency=True)
    with (
        watched_valkeys(tmp_path / "valkeys", passwords=True) as valkeys,
        drill_site(tmp_path, checkpoint, GDSR_REDIS_URL=valkeys.url) as site,
    ):
        primary, refused = valkeys.primary(), []
        assert primary is not None
        with site.driven(jobs, a_second=8.0):
            wait_for(lambda: len(site.ids) >= jobs / 5, what="results")
            valkeys.kill(primary)
            killed = time.monotonic()
            wait_for(lambda: not taken(asked_again(site), refused), what="a refusal")
            wait_for(lambda: valkeys.primary() != primary, what="a failover")
            failed_over = time.monotonic()
            wait_for(lambda: taken(asked_again(site), refused), what="a job that is taken")
            site.wait_ready()
            back = time.monotonic()
        site.check_results()
        listed, said = site.listed(), site.said()

    line = (
        f"{jobs} jobs, {dict(site.fates)}, doubled {listed - jobs}; failover "
        f"{failed_over - killed:.1f} s after the kill, ready {back - failed_over:.1f} s later"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
    assert refused
    for answer in refused:
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"] == "/problems/queue-unavailable"
        assert "Retry-After" in answer.headers
    assert site.fates == {"right": jobs}
    assert listed == jobs
    if jobs > 20:  # only the long form checks speeds
        assert back - failed_over < 15
    assert "Traceback" not in said
