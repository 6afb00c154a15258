"""A map gives each pixel of a derived result its own trade-off. The workers' code runs here."""

import struct
import zlib
from io import BytesIO
from typing import Any

import httpx2
import numpy as np
import pytest
from factories import PngPart, apng, engine_info, photo, png, png_chunk, register, saved
from numpy.typing import NDArray
from PIL import Image
from serving import Serve, Site, problem_of, working

from service.access.auth import hash_key
from workers.contract.images.maps import MAX_MAP_BYTES, MAX_MAP_PIXELS
from workers.contract.queue.jobs import OUTPUTS, Job
from workers.pictures.formats.png import encode_png
from workers.pictures.picture import Picture
from workers.tasks.blend import blend
from workers.tasks.branches import read_branch

WIDTH, HEIGHT = 120, 80
RANDOM = np.random.default_rng(0)

Planes = NDArray[np.unsignedinteger]


def outputs(bits: int) -> dict[str, Planes]:
    """Random samples of psnr, fused and gan, (H, W, 3)."""
    kind = np.uint8 if bits == 8 else np.uint16
    return {
        output: np.random.default_rng(seed).integers(0, 2**bits, (HEIGHT, WIDTH, 3), kind)
        for seed, output in enumerate(OUTPUTS)
    }


def finished(site: Site, *, bits: int = 8, **options: Any) -> Job:
    """Return a job that kept its branches."""
    job_id = site.submit(keep_branches="true", name="cat.jpg", **options)
    planes = {**outputs(bits), "mask": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}
    branches = {}
    for output, colour in planes.items():
        picture = Picture(colour=colour, grey=output == "mask")
        branches[output] = site.blobs.write(
            f"results/{job_id}.run.{output}.png", [encode_png(picture)]
        )
    return site.succeed(job_id, b"picture", branches=branches)


@pytest.fixture
def job(site: Site) -> Job:
    return finished(site)


def grey(levels: Any) -> bytes:
    return png(np.asarray(levels, np.uint8), bits=8, colour_type=0)


def random_map(width: int = 30, height: int = 20, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def post(site: Site, job: Job, content: bytes = b"", **params: Any) -> httpx2.Response:
    headers = {"Content-Type": "image/png"} if content else {}
    return site.http.post(f"/jobs/{job.id}/result", content=content, params=params, headers=headers)


def maps(site: Site) -> list[str]:
    """Return the keys of the stored maps."""
    return [key for key in site.stored() if key.startswith("inputs/") and "." in key]


def made(site: Site, asked: httpx2.Response) -> httpx2.Response:
    """Run a derived job as a worker does and return the response with its picture."""
    assert asked.status_code == 202, asked.text
    with working(site):
        blend(asked.json()["id"])
    return site.http.get(asked.json()["links"]["result"])


def expected(levels: NDArray[np.uint8], bits: int) -> Planes:
    """Compute the sums of docs/http.md, pixel by pixel."""

    def between(pixel: int, size: int, samples: int) -> tuple[int, int, int]:
        place = min(max((2 * pixel + 1) * samples - size, 0), 2 * size * (samples - 1))
        first, rest = divmod(place, 2 * size)
        return first, min(first + 1, samples - 1), (256 * rest + size) // (2 * size)

    full, planes = 2**bits, {name: plane.tolist() for name, plane in outputs(bits).items()}
    rows = [between(y, HEIGHT, levels.shape[0]) for y in range(HEIGHT)]
    columns = [between(x, WIDTH, levels.shape[1]) for x in range(WIDTH)]
    level = levels.tolist()
    result = np.zeros((HEIGHT, WIDTH, 3), int)
    for y, (top, bottom, down) in enumerate(rows):
        for x, (left, right, across) in enumerate(columns):
            upper = level[top][left] * (256 - across) + level[top][right] * across
            lower = level[bottom][left] * (256 - across) + level[bottom][right] * across
            place = upper * (256 - down) + lower * down
            twice = (place + 16320) // 32640 if bits == 8 else (2 * place + 127) // 255
            one, other = ("psnr", "fused") if twice <= full else ("fused", "gan")
            share = twice if twice <= full else twice - full
            result[y, x] = [
                (a * (full - share) + b * share + full // 2) >> bits
                for a, b in zip(planes[one][y][x], planes[other][y][x], strict=True)
            ]
    return result.astype(f"u{bits // 8}")


def pixels(answer: httpx2.Response) -> Planes:
    assert answer.status_code == 200, answer.text
    return read_branch(answer.content).colour


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (7, 5)])
def test_a_map_gives_each_pixel_the_documented_sum(
    site: Site, bits: int, size: tuple[int, int]
) -> None:
    job, levels = finished(site, bits=bits), random_map(*size)

    answer = made(site, post(site, job, grey(levels)))

    assert np.array_equal(pixels(answer), expected(levels, bits))


def test_the_sum_is_the_bilinear_blend_of_the_branches_to_a_level(site: Site, job: Job) -> None:
    levels = random_map()
    smooth = Image.fromarray(levels.astype(np.float32))
    shares = np.asarray(smooth.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))[..., None] / 255
    psnr, fused, gan = (plane.astype(float) for plane in outputs(8).values())
    low = psnr + (fused - psnr) * 2 * shares
    exact = np.where(shares < 0.5, low, fused + (gan - fused) * (2 * shares - 1))

    answer = made(site, post(site, job, grey(levels)))

    # Errors: a 256th of a share, a 256th of a pixel of the map, and rounding.
    assert np.abs(pixels(answer) - exact).max() < 4


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("level", [0, 1, 63, 64, 127, 128, 200, 255])
def test_a_map_of_one_level_is_the_plain_trade_off_to_the_byte(
    site: Site, bits: int, level: int
) -> None:
    job = finished(site, bits=bits)

    by_map = made(site, post(site, job, grey(np.full((4, 6), level)), format="tiff"))
    plain = made(site, post(site, job, trade_off=level / 255, format="tiff"))

    assert by_map.status_code == 200
    assert by_map.content == plain.content


def test_lossless_webp_by_a_map_of_one_level_is_the_plain_one(site: Site) -> None:
    job = finished(site, format="webp", lossless="true")

    by_map = made(site, post(site, job, grey([[100]])))
    plain = made(site, post(site, job, trade_off=100 / 255))

    assert by_map.headers["Content-Type"] == "image/webp"
    assert by_map.content == plain.content


def test_a_region_by_a_map_is_that_part_of_the_whole(site: Site, job: Job) -> None:
    levels = grey(random_map())
    whole = pixels(made(site, post(site, job, levels)))

    part = made(site, post(site, job, levels, region="30,17,51,40"))

    assert np.array_equal(pixels(part), whole[17:57, 30:81])


def test_a_form_has_map_and_options_and_a_name(site: Site, job: Job) -> None:
    asked = site.http.post(
        f"/jobs/{job.id}/result",
        files={"map": ("map.png", grey(random_map()))},
        data={"format": "webp", "quality": "70", "width": "60", "name": "../dog.png"},
    )
    answer = made(site, asked)

    view = asked.json()
    assert view["blend_of"] == job.id
    assert (view["options"]["format"], view["options"]["quality"]) == ("webp", 70)
    assert (view["part"]["width"], view["part"]["height"]) == (60, 40)
    assert len(view["part"]["map"]) == 64
    assert answer.headers["Content-Disposition"] == 'inline; filename="dog-2x.webp"'
    assert Image.open(BytesIO(answer.content)).size == (60, 40)


def test_without_a_map_it_is_what_get_gives(site: Site, job: Job) -> None:
    own = post(site, job)
    by_post = post(site, job, trade_off=0.2, format="webp")
    by_get = site.http.get(f"/jobs/{job.id}/result?trade_off=0.2&format=webp")

    assert (own.status_code, own.content) == (200, b"picture")
    assert by_post.json()["id"] == by_get.json()["id"]


def test_the_same_map_is_the_same_job_and_another_map_or_name_another(site: Site, job: Job) -> None:
    levels, other = grey(random_map()), grey(random_map(seed=1))

    ids = [
        post(site, job, content, **params).json()["id"]
        for content, params in [(levels, {}), (levels, {}), (other, {}), (levels, {"name": "a"})]
    ]

    assert ids[0] == ids[1]
    assert len({*ids}) == 3
    assert len(maps(site)) == 3


def test_several_services_make_one_job_of_the_same_map(serve: Serve) -> None:
    first, second = serve(), serve()
    register(first.redis, engine_info())
    job, levels = finished(first), grey(random_map())

    one, other = post(first, job, levels), post(second, job, levels)
    made(second, one)

    assert one.json()["id"] == other.json()["id"]
    answers = [post(site, job, levels) for site in (first, second)]
    assert answers[0].content == answers[1].content
    assert maps(first) == []


def test_the_picture_at_its_address_has_ranges_and_an_entity_tag(site: Site, job: Job) -> None:
    levels = grey(random_map())
    whole = made(site, post(site, job, levels))

    again = post(site, job, levels)
    address = again.headers["Content-Location"]
    part = site.http.get(address, headers={"Range": "bytes=10-19"})
    known = site.http.get(address, headers={"If-None-Match": whole.headers["ETag"]})

    assert (again.status_code, again.content) == (200, whole.content)
    assert again.headers["ETag"] == whole.headers["ETag"]
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert known.status_code == 304


def test_a_request_that_waits_gets_the_picture(site: Site, job: Job) -> None:
    levels = grey(random_map())
    whole = made(site, post(site, job, levels))

    answer = site.http.post(f"/jobs/{job.id}/result", content=levels, headers={"Prefer": "wait=9"})

    assert answer.content == whole.content
    assert answer.headers["Preference-Applied"] == "wait=9"


def test_erasing_a_job_erases_its_maps_and_what_was_made_by_them(site: Site, job: Job) -> None:
    done = post(site, job, grey(random_map()))
    made(site, done)
    waiting = post(site, job, grey(random_map(seed=1)))

    assert site.http.delete(f"/jobs/{job.id}").status_code == 204

    assert site.stored() == []
    for asked in (done, waiting):
        assert site.http.get(asked.headers["Location"]).status_code == 404


def test_cancelling_a_map_that_waits_deletes_it(site: Site, job: Job) -> None:
    asked = post(site, job, grey(random_map()))

    site.http.delete(asked.headers["Location"])

    assert maps(site) == []


def test_maps_count_as_what_is_sent(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"ann:{hash_key('ann')}\n")
    site = serve(api_keys_file=keys, rate_limit="3/hour", pixels_per_day=637)
    register(site.redis, engine_info())
    site.http.headers["X-API-Key"] = "ann"
    job = finished(site)  # 600 pixels

    answers = [post(site, job, grey(random_map(seed=seed))) for seed in (0, 0, 1, 2)]

    assert [answer.status_code for answer in answers[:2]] == [202, 202]
    assert problem_of(answers[2]) == "pixels-exceeded"
    assert problem_of(answers[3]) == "rate-exceeded"
    assert len(maps(site)) == 1


def claimed(width: int, height: int, *, bits: int = 8, colour_type: int = 0) -> bytes:
    """Return a PNG whose header claims that size, with almost no data."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in chunks)


LEVELS = random_map()
HOSTILE = {
    "no PNG": (b"no picture", "map-invalid", "is not a PNG"),
    "JPEG": (saved(LEVELS, "JPEG"), "map-invalid", "is not a PNG"),
    "the signature alone": (grey(LEVELS)[:8], "map-invalid", "is damaged"),
    "no pixels": (grey(LEVELS)[:33], "map-invalid", "is damaged"),
    "none": (claimed(0, 0), "map-invalid", "is damaged"),
    "colour": (saved(photo(20, 30), "PNG"), "map-invalid", "has colours"),
    "palette": (saved(Image.fromarray(LEVELS).convert("P"), "PNG"), "map-invalid", "palette"),
    "16 bits": (png(LEVELS, bits=16, colour_type=0), "map-invalid", "16 bits"),
    "1 bit": (png(LEVELS & 1, bits=1, colour_type=0), "map-invalid", "1 bits"),
    "alpha": (
        png(np.dstack([LEVELS, LEVELS]), bits=8, colour_type=4), "map-invalid", "transparency"
    ),
    "a transparent level": (
        png(LEVELS, bits=8, colour_type=0, chunks=[(b"tRNS", b"\0\0")]),
        "map-invalid",
        "transparency",
    ),
    "animated": (
        apng([PngPart(LEVELS)] * 2, height=20, width=30, colour_type=0), "map-invalid", "animated"
    ),
    "upright": (grey(LEVELS.T), "map-invalid", "20 x 30 pixels, and the result 120 x 80"),
    "wrong proportions": (grey(LEVELS[:17]), "map-invalid", "30 x 17 pixels"),
    "larger than the result": (claimed(240, 160), "map-invalid", "240 x 160 pixels"),
    "huge": (claimed(30_000, 20_000), "map-too-large", f"{MAX_MAP_PIXELS:,} pixels"),
    "heavy": (bytes(MAX_MAP_BYTES + 1), "map-too-large", f"{MAX_MAP_BYTES:,} bytes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_map_that_cannot_be_used_is_refused_with_the_reason(
    site: Site, job: Job, kind: str
) -> None:
    content, slug, reason = HOSTILE[kind]

    answer = post(site, job, content)

    assert problem_of(answer) == slug
    assert reason in answer.json()["detail"]
    assert site.records.active() == []
    assert maps(site) == []


def test_a_limit_that_a_map_exceeds_is_named_as_in_limits(site: Site, job: Job) -> None:
    answer = post(site, job, claimed(30_000, 20_000))

    limits = site.http.get("/limits").json()
    assert answer.json()["limits"] == {"max_map_pixels": limits["max_map_pixels"]}
    assert limits["max_map_bytes"] == MAX_MAP_BYTES


def bomb() -> bytes:
    """Return a small map whose data inflates to 100 MB."""
    header = struct.pack(">IIBBBBB", 30, 20, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**8))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in chunks)


def test_a_map_that_holds_more_than_its_pixels_is_read_up_to_them(site: Site, job: Job) -> None:
    answer = made(site, post(site, job, bomb()))

    assert np.array_equal(pixels(answer), outputs(8)["psnr"])


DAMAGED = {
    "truncated": grey(LEVELS)[:-200],
    "damaged": grey(LEVELS).replace(b"IDAT", b"IDAT\1\2\3\4")[:-4],
    "short": claimed(30, 20),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_map_whose_pixels_are_damaged_fails_its_job_with_the_reason(
    site: Site, job: Job, kind: str
) -> None:
    answer = made(site, post(site, job, DAMAGED[kind]))

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/map-invalid")
    assert "is damaged" in answer.json()["detail"]
    assert post(site, job, DAMAGED[kind]).json()["type"] == "/problems/map-invalid"
    assert maps(site) == []


@pytest.mark.parametrize("params", [{"trade_off": 0.3}, {"output": "mask"}])
def test_a_map_and_one_trade_off_exclude_each_other(
    site: Site, job: Job, params: dict[str, Any]
) -> None:
    answer = post(site, job, grey(LEVELS), **params)

    assert problem_of(answer) == "invalid-request"
    assert answer.json()["errors"][0]["name"] == next(iter(params))


def test_a_form_with_two_maps_or_another_file_is_refused(site: Site, job: Job) -> None:
    part = ("map.png", grey(LEVELS))
    address = f"/jobs/{job.id}/result"

    twice = site.http.post(address, files=[("map", part), ("map", part)])
    other = site.http.post(address, files={"image": part})
    empty = site.http.post(address, files={"map": ("map.png", b"")})

    assert problem_of(twice) == problem_of(other) == "invalid-request"
    assert problem_of(empty) == "map-invalid"
    assert "send `map`" in other.json()["errors"][0]["message"]


def test_a_map_needs_kept_branches_and_a_job_that_has_ended(site: Site) -> None:
    job_id = site.submit()
    early = site.http.post(f"/jobs/{job_id}/result", content=grey(LEVELS))
    plain = site.succeed(job_id)
    gone = finished(site)
    for key in gone.result.keys if gone.result else ():
        site.blobs.delete(key)

    assert problem_of(early) == "job-not-finished"
    assert problem_of(post(site, plain, grey(LEVELS))) == "branches-not-kept"
    assert problem_of(post(site, gone, grey(LEVELS))) == "job-expired"


def test_a_derived_job_with_a_map_is_left_to_workers_that_know_maps(site: Site, job: Job) -> None:
    by_map, plain = post(site, job, grey(LEVELS)), post(site, job, trade_off=0.1)

    versions = [
        site.records.get(asked.json()["id"]).spec.schema_version for asked in (by_map, plain)
    ]

    assert versions == [2, 1]
