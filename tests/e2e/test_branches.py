"""Stored branches equal the results of direct jobs, and are blended without the engine."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from factories import P3_PRIMARIES, png, rgb_profile
from hosts import Site, noise
from networks import tiny_checkpoint
from PIL import Image
from processes import ValkeyServer, running_valkey

from workers.contract.images.formats import ResultFormat
from workers.contract.queue.jobs import OUTPUTS, STOPS, Job, Part, Region
from workers.contract.queue.queue import blend_spec, new_job_id
from workers.pictures.extras import make_ready
from workers.pictures.picture import Picture
from workers.pictures.reduce import reduced
from workers.tasks.branches import read_branch

pytestmark = pytest.mark.e2e
PICTURE = noise(70, 90)
X_RESOLUTION, Y_RESOLUTION = 0x011A, 0x011B


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


def marks(site: Site, kept: Job) -> list[str]:
    """Return the AI marks of the result, the branches and a derived result."""
    assert kept.result is not None, kept.failure
    options = kept.spec.options.model_copy(update={"trade_off": 0.0, "keep_branches": False})
    blend_id = new_job_id()
    site.queue.submit_blend(blend_spec(blend_id, kept, options))
    derived = site.ended(blend_id).result
    assert derived is not None
    branches = (kept.result.branches[output].key for output in OUTPUTS)
    stored = [site.blobs.read(key) for key in (kept.result.key, *branches, derived.key)]
    found = [re.findall(rb"digitalsourcetype/(\w+)", data) for data in stored]
    return [b" ".join(words).decode() for words in found]


def test_all_that_a_job_gives_says_that_a_model_made_it(site: Site, kept: Job) -> None:
    enhanced, composite = "algorithmicallyEnhanced", "compositeWithTrainedAlgorithmicMedia"

    assert marks(site, kept) == [composite, enhanced, composite, composite, enhanced]


@pytest.mark.slow
def test_the_operator_can_leave_the_mark_out(server: ValkeyServer, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    site = Site(server.url, tmp_path / "blobs", checkpoint)
    with site.worker_host(mark="off"):
        kept = site.ended(site.submit(noise(9, 9), keep_branches=True))

        assert marks(site, kept) == [""] * 5


def test_the_mask_is_kept_as_a_grey_picture(site: Site, kept: Job) -> None:
    assert kept.result is not None
    mask = pixels(site, kept.result.branches["mask"].key)

    assert (mask.shape, mask.dtype) == ((280, 360), np.uint8)
    assert mask.std() > 0


def test_each_branch_has_a_preview_that_looks_like_it(site: Site, kept: Job) -> None:
    assert kept.result is not None
    assert list(kept.result.previews) == list(kept.result.branches)
    for output, preview in kept.result.previews.items():
        with Image.open(site.blobs.path(preview.key)) as opened:
            shown = np.asarray(opened.convert("RGB")).astype(int)
            assert (opened.format, opened.size) == ("WEBP", (360, 280))
        branch = pixels(site, kept.result.branches[output].key)
        exact = branch if branch.ndim == 3 else branch[..., None]
        assert abs(shown.mean() - exact.mean()) < 3


def test_the_share_that_is_invented_is_0_at_0_and_grows_to_fused(site: Site, kept: Job) -> None:
    shares = []
    for trade_off in (0, 0.2, 0.35, 0.5, 0.8, 1):
        job = blended(site, kept, trade_off=trade_off)
        assert job.result is not None, job.failure
        shares.append(job.result.invented)
    part = blended(site, kept, Part(region=REGION), trade_off=1)
    mask = blended(site, kept, Part(mask=True, region=REGION))
    unknown = site.ended(site.submit(PICTURE, trade_off=0.35))
    faithful = site.ended(site.submit(PICTURE, trade_off=0))

    assert kept.result is not None
    assert shares[0] == 0
    assert shares[2] == kept.result.invented
    # Beyond `fused`, an untrained network may approach the faithful branch again.
    assert shares[:4] == sorted(set(shares[:4]))
    assert part.result is not None
    assert part.result.invented not in (None, shares[-1])
    assert mask.result is not None
    assert mask.result.invented is None
    assert unknown.result is not None
    assert unknown.result.invented is None
    assert faithful.result is not None
    assert faithful.result.invented == 0


def test_a_position_is_within_a_level_of_a_job_for_it(site: Site, kept: Job) -> None:
    for trade_off in (0.1, 0.35, 0.8):
        direct = site.result(site.ended(site.submit(PICTURE, trade_off=trade_off)))
        options = kept.spec.options.model_copy(
            update={"trade_off": trade_off, "keep_branches": False}
        )
        blend_id = new_job_id()
        site.queue.submit_blend(blend_spec(blend_id, kept, options))
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


def blended(site: Site, source: Job, part: Part | None = None, **changes: object) -> Job:
    """Return a derived job of a finished job, once it has ended."""
    options = source.spec.options.model_copy(update={"keep_branches": False, **changes})
    job_id = new_job_id()
    site.queue.submit_blend(blend_spec(job_id, source, options, part))
    return site.ended(job_id)


XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b"<rdf:Description xmlns:dc='http://purl.org/dc/elements/1.1/' dc:source='kept'/>"
    b"</rdf:RDF></x:xmpmeta>"
)
EXIF = Image.Exif()
EXIF[0x013B] = "A photographer"


def deep_picture() -> bytes:
    """Return a 16-bit PNG in Display P3, clear at the left, with metadata and a resolution."""
    samples = np.random.default_rng(0).integers(0, 65536, (40, 50, 4))
    samples[:, :9, 3], samples[:, 9:, 3] = 0, 65535
    chunks = [
        (b"iCCP", b"p3\0\0" + zlib.compress(rgb_profile(P3_PRIMARIES))),
        (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
        (b"eXIf", EXIF.tobytes()[6:]),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    ]
    return png(samples, bits=16, colour_type=6, chunks=chunks)


@pytest.fixture(scope="module")
def deep(site: Site) -> Job:
    """A finished job of the deep picture that keeps branches, profile and metadata."""
    return site.ended(
        site.submit(
            deep_picture(),
            trade_off=0.35,
            keep_branches=True,
            icc="keep",
            metadata="keep",
            scale=3,
        )
    )


@pytest.mark.parametrize("source", ["kept", "deep"])
def test_a_blend_at_the_jobs_own_position_is_its_result_to_the_last_byte(
    site: Site, source: str, request: pytest.FixtureRequest
) -> None:
    job = request.getfixturevalue(source)

    again = blended(site, job)

    assert job.result is not None, job.failure
    assert again.result is not None, again.failure
    assert again.result.sha256 == job.result.sha256


def test_16_bits_profile_metadata_and_dpi_are_in_a_branch_and_in_a_blend(
    site: Site, deep: Job
) -> None:
    assert deep.result is not None, deep.failure
    blend = blended(site, deep, trade_off=0.8)
    assert blend.result is not None, blend.failure

    for key in (deep.result.key, deep.result.branches["gan"].key, blend.result.key):
        data = site.blobs.read(key)
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            assert opened.size == (150, 120)
            assert opened.info["icc_profile"] == rgb_profile(P3_PRIMARIES)
            assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.01)
            assert opened.getexif()[0x013B] == "A photographer"
            assert b"dc:source='kept'" in opened.info["xmp"]
        assert read_branch(data).bits == 16
    assert blend.result.precision == "float32"


@pytest.mark.parametrize("format_name", ["tiff", "webp", "jpeg", "avif"])
def test_a_blend_in_another_format_carries_the_same(
    site: Site, deep: Job, format_name: str
) -> None:
    opaque = {"background": "#ffffff"} if format_name == "jpeg" else {}
    source = deep
    if opaque:
        source = site.ended(
            site.submit(
                deep_picture(), keep_branches=True, icc="keep", metadata="keep", scale=3, **opaque
            )
        )
    blend = blended(site, source, trade_off=0.8, format=ResultFormat(format_name))

    assert blend.result is not None, blend.failure
    with Image.open(site.blobs.path(blend.result.key)) as opened:
        opened.load()
        assert opened.info["icc_profile"] == rgb_profile(P3_PRIMARIES)
        assert opened.getexif()[0x013B] == "A photographer"


@pytest.mark.parametrize("result", ResultFormat)
def test_a_file_states_the_dots_per_inch_that_were_asked_for(
    site: Site, kept: Job, result: ResultFormat
) -> None:
    derived = blended(site, kept, Part(width=90, height=70, dpi=240), format=result).result

    assert derived is not None
    if result is ResultFormat.JXL:
        make_ready(result)
    with Image.open(site.blobs.path(derived.key)) as opened:
        assert opened.size == (90, 70)
        tags = opened.getexif()
        told = opened.info.get("dpi") or (tags[X_RESOLUTION], tags[Y_RESOLUTION])
        assert told == pytest.approx((240, 240), abs=0.01)


def test_lossless_stays_lossless(site: Site) -> None:
    job = site.ended(site.submit(PICTURE, keep_branches=True, format="webp", lossless=True))

    again = blended(site, job)

    assert np.array_equal(site.result(job), site.result(again))


def test_a_blend_repeats_the_warnings_of_its_job(site: Site) -> None:
    profile = (b"iCCP", b"p\0\0" + zlib.compress(b"not a profile"))
    broken = png(np.zeros((9, 9, 3)), bits=8, colour_type=2, chunks=[profile])
    job = site.ended(site.submit(broken, keep_branches=True))
    assert job.result is not None, job.failure
    assert job.result.warnings

    blend = blended(site, job, trade_off=0.1)

    assert blend.result is not None, blend.failure
    assert blend.result.warnings == job.result.warnings


REGION = Region(30, 17, 101, 64)


def test_a_region_is_that_part_of_the_whole(site: Site, kept: Job) -> None:
    whole = site.result(blended(site, kept, trade_off=0.8))
    job = blended(site, kept, Part(region=REGION), trade_off=0.8)

    assert job.result is not None, job.failure
    assert (job.result.width, job.result.height) == (101, 64)
    assert np.array_equal(site.result(job), whole[17:81, 30:131])


def test_a_smaller_size_is_the_reduction_of_the_whole(site: Site, kept: Job) -> None:
    whole = Picture(colour=site.result(blended(site, kept, trade_off=0.8)))
    job = blended(site, kept, Part(width=90, height=70), trade_off=0.8)

    assert np.array_equal(site.result(job), reduced(whole, width=90, height=70).colour)


def test_the_mask_has_parts_too(site: Site, kept: Job) -> None:
    assert kept.result is not None
    whole = pixels(site, kept.result.branches["mask"].key)
    region = site.result(blended(site, kept, Part(mask=True, region=REGION)))
    small = site.result(blended(site, kept, Part(mask=True, width=9, height=7)))

    assert np.array_equal(region, whole[17:81, 30:131])
    assert small.shape == (7, 9)
    assert abs(small.mean() - whole.mean()) < 2


def test_a_result_in_png_has_parts_without_kept_branches(site: Site) -> None:
    job = site.ended(site.submit(PICTURE))

    part = site.result(blended(site, job, Part(region=REGION)))

    assert np.array_equal(part, site.result(job)[17:81, 30:131])


@pytest.mark.parametrize("wish", [None, True])
def test_a_result_says_whether_it_was_made_consistent(site: Site, wish: bool | None) -> None:  # noqa: FBT001
    job = site.ended(site.submit(PICTURE, consistency=wish, keep_branches=True))
    blend = blended(site, job, trade_off=0.2)

    assert job.result is not None, job.failure
    assert blend.result is not None, blend.failure
    assert job.result.consistency is blend.result.consistency is bool(wish)


def test_branches_that_are_gone_fail_the_blend_with_a_reason(site: Site) -> None:
    job = site.ended(site.submit(PICTURE, keep_branches=True))
    assert job.result is not None
    for key in job.result.keys:
        site.blobs.delete(key)
    blend_id = new_job_id()
    site.queue.submit_blend(
        blend_spec(blend_id, job, job.spec.options.model_copy(update={"trade_off": 0.3}))
    )

    failure = site.ended(blend_id).failure
    assert failure is not None
    assert failure.slug == "blob-missing"
