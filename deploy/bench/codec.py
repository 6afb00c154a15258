"""Benchmark of codecs and tiling: our PNG compared to Pillow's, other formats, cut and stitch."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from deploy.bench.timing import SAMPLE, machine, show, time_interleaved, verdict
from workers.contract.images.formats import ResultFormat
from workers.engine.protocol import FEATHER, HALO
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.picture import Picture
from workers.tiles.tiling import cut, plan_tiles, stitch

_QUALITY = 90
_TILE = 160


def bench_codec(*, side: int, rounds: int) -> dict[str, Any]:
    """Seconds and sizes for one photograph of `side` x `side` pixels."""
    with Image.open(SAMPLE) as sample:
        photograph = sample.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(photograph)
    picture = Picture(colour=pixels, alpha=None, grey=False)
    written: dict[str, bytes] = {"Pillow's PNG": _pillow_png(photograph)}
    functions: dict[str, Callable[[], object]] = {"Pillow's PNG": lambda: _pillow_png(photograph)}
    for kind in (ResultFormat.PNG, ResultFormat.JPEG, ResultFormat.WEBP):
        write = partial(encode, picture, format=kind, quality=_QUALITY)
        written[f"our {kind}"] = write()
        functions[f"our {kind}"] = write
    for name in ("our png", "our jpeg"):
        data = written[name]
        functions[f"read {name}"] = lambda data=data: decode(data, max_pixels=side**2)  # type: ignore[misc]
    plan = plan_tiles(height=side // 4, width=side // 4, tile=_TILE, halo=HALO, feather=FEATHER)
    small = np.asarray(photograph.resize((side // 4, side // 4)))
    results = [np.repeat(np.repeat(tile, 4, 0), 4, 1) for tile in cut(small, plan)]
    functions["cut"] = lambda: list(cut(small, plan))
    functions["stitch"] = lambda: stitch(iter(results), plan)

    seconds = time_interleaved(functions, rounds=rounds)
    rows: dict[str, Any] = {
        name: {"seconds": measured.as_json(), "bytes": len(written.get(name, b"")) or None}
        for name, measured in seconds.items()
    }
    speed = seconds["Pillow's PNG"] / seconds["our png"]
    rows["our png"] |= {
        "speed against Pillow": verdict(speed),
        "speed": speed.as_json(),
        "size": len(written["our png"]) / len(written["Pillow's PNG"]),
    }
    figures = {"machine": machine(), "side": side, "contestants": rows}
    show(figures)
    return figures


def _pillow_png(photograph: Image.Image) -> bytes:
    file = BytesIO()
    photograph.save(file, "PNG")
    return file.getvalue()
