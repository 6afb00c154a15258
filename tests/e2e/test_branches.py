"""Kept branches through real workers: equal to direct jobs, and blended without the engine."""

from collections.abc import Iterator

import numpy as np
import pytest
from hosts import Site, noise
from networks import tiny_checkpoint
from PIL import Image
from processes import running_valkey

from workers.contract.jobs import OUTPUTS, STOPS, Job
from workers.contract.queue import new_job_id

pytestmark = pytest.mark.e2e
PICTURE = noise(70, 90)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("branches")
    checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
    with running_valkey(folder / "valkey") as server:
        site = Site(server.url, folder / "blobs", checkpoint)
        with site.worker_host():
            yield site


@pytest.fixture(scope="module")
def kept(site: Site) -> Job:
    """A finished job that kept its branches."""
    return site.ended(site.submit(PICTURE, trade_off=0.35, keep_branches=True))


def pixels(site: Site, key: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(site.blobs.path(key)) as opened:
        return np.asarray(opened)


@pytest.mark.parametrize("output", OUTPUTS)
def test_each_branch_is_what_a_job_for_it_gives(site: Site, kept: Job, output: str) -> None:
    direct = site.ended(site.submit(PICTURE, trade_off=STOPS[output]))

    assert kept.result is not None, kept.failure
    branch = pixels(site, kept.result.branches[output].key)
    assert np.array_equal(branch, site.result(direct))
    assert kept.tiles_done == kept.tiles == direct.tiles


def test_the_mask_is_kept_as_a_grey_picture(site: Site, kept: Job) -> None:
    assert kept.result is not None
    mask = pixels(site, kept.result.branches["mask"].key)

    assert (mask.shape, mask.dtype) == ((280, 360), np.uint8)
    assert mask.std() > 0


def test_a_position_is_within_a_level_of_a_job_for_it(site: Site, kept: Job) -> None:
    for trade_off in (0.1, 0.35, 0.8):
        direct = site.result(site.ended(site.submit(PICTURE, trade_off=trade_off)))
        options = kept.spec.options.model_copy(
            update={"trade_off": trade_off, "keep_branches": False}
        )
        blend_id = new_job_id()
        site.queue.submit_blend(blend_id, kept, options)
        blended = site.ended(blend_id)

        assert np.abs(site.result(blended).astype(int) - direct).max() <= 1
        assert blended.result is not None
        assert set(blended.result.seconds) == {"queue", "decode", "blend", "encode"}
        assert blended.result.branches == {}


def test_the_result_of_a_job_that_keeps_its_branches_is_its_own_position(
    site: Site, kept: Job
) -> None:
    direct = site.result(site.ended(site.submit(PICTURE, trade_off=0.35)))

    assert np.abs(site.result(kept).astype(int) - direct).max() <= 1


def test_branches_that_are_gone_fail_the_blend_with_a_reason(site: Site) -> None:
    job = site.ended(site.submit(PICTURE, keep_branches=True))
    assert job.result is not None
    for key in job.result.keys:
        site.blobs.delete(key)
    blend_id = new_job_id()
    site.queue.submit_blend(blend_id, job, job.spec.options.model_copy(update={"trade_off": 0.3}))

    failure = site.ended(blend_id).failure
    assert failure is not None
    assert failure.slug == "blob-missing"
