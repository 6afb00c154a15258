"""Soak test: many mixed jobs through one `gdsr-up`, to find memory leaks.

Sizes, formats, slider values, models and kept branches are drawn from one seed. After each job the
resident memory of the engine, the job workers and the service is read. The mean of the last third
is compared to that of the middle third, by which time everything is warm.
"""

import io
import random
import statistics
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from deploy.bench.costs import resident
from deploy.bench.service import running_service
from deploy.bench.timing import show

#: Maximum growth from the middle third to the last one that counts as no leak.
FLAT = 1.02
_KINDS = ("engine", "job workers", "service")
_FORMATS = ("jpeg", "png", "webp")


def bench_soak(*, jobs: int, largest_side: int = 300) -> dict[str, Any]:
    """Resident bytes for each kind of process: means of the middle and the last third, and growth.

    Raises:
        RuntimeError: the service did not start, or rejected a picture.
    """
    draw = random.Random(0)  # noqa: S311 - pictures, not secrets
    seen: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    with (
        running_service() as (url, process),
        httpx2.Client(base_url=url, timeout=300, trust_env=False) as http,
    ):
        models = [model["name"] for model in http.get("/models").json()]
        for _ in range(jobs):
            _one_job(http, draw, models, largest_side)
            now = resident(process.pid)
            for kind, sizes in seen.items():
                sizes.append(now[kind])
    figures: dict[str, Any] = {"jobs": jobs}
    for kind, sizes in seen.items():
        third = len(sizes) // 3
        middle = statistics.fmean(sizes[third : 2 * third])
        last = statistics.fmean(sizes[2 * third :])
        figures[kind] = {"middle": middle, "last": last, "growth": last / middle}
    show(figures)
    return figures


def _one_job(http: httpx2.Client, draw: random.Random, models: list[str], largest: int) -> None:
    width, height = draw.randint(8, largest), draw.randint(8, largest)
    answer = http.post(
        "/upscale",
        params={
            "model": draw.choice(models),
            "trade_off": draw.choice((0, 0.25, 0.5, 0.75, 1)),
            "format": draw.choice(_FORMATS),
            "keep_branches": draw.random() < 0.2,
            "background": "#808080",  # JPEG does not support transparency
        },
        content=_picture(draw, width, height),
        headers={"Prefer": "wait=60"},
    )
    if answer.status_code != httpx2.codes.OK:
        raise RuntimeError(f"the service responded {answer.status_code}: {answer.text}")


def _picture(draw: random.Random, width: int, height: int) -> bytes:
    """A file in a random format, with noise, so that no tile has one colour."""
    noise = np.random.default_rng(draw.getrandbits(32))
    pixels = noise.integers(0, 256, (height, width, draw.choice((3, 4))), dtype=np.uint8)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    name = draw.choice(_FORMATS)
    (image.convert("RGB") if name == "jpeg" else image).save(file, name)
    return file.getvalue()
