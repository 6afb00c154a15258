"""Benchmark of codecs and tiling: our PNG compared to Pillow's, other formats, cut and stitch."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from deploy.bench.timing import SAMPLE, machine, time_interleaved, verdict
from workers.contract.images.formats import ResultFormat
from workers.engine.protocol import FEATHER, HALO
from workers.pictures.decode import decode
from workers.pictures.encode import encode
from workers.pictures.picture import Picture
from workers.tiles.tiling import cut, plan_tiles, stitch

_QUALITY = 90
_TILE = 160


def bench_codec(*, side: int, rounds: int) -> dict[str, Any]:
    """Milliseconds and sizes for one photograph of `side` x `side` pixels."""
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
    table = Table(
        "", "ms (min / median / max)", "bytes", "speed against Pillow's PNG", "size",
        title=f"{side}x{side} photograph",
    )  # fmt: skip
    rows: dict[str, Any] = {}
    reference, full = seconds["Pillow's PNG"], len(written["Pillow's PNG"])
    for name, measured in seconds.items():
        size = len(written[name]) if name in written else None
        ratio = reference / measured
        rows[name] = {"seconds": measured.as_json(), "bytes": size}
        is_png = name == "our png"
        if is_png:
            rows[name] |= {"speed": ratio.as_json(), "size": size and size / full}
        table.add_row(
            name,
            measured.scaled(1000).shown(),
            f"{size:,}" if size else "",
            verdict(ratio) if is_png else "",
            f"x {size / full:.2f}" if is_png and size else "",
        )
    console = Console()
    console.print(machine(), table)
    return {"machine": machine(), "side": side, "contestants": rows}


def _pillow_png(photograph: Image.Image) -> bytes:
    file = BytesIO()
    photograph.save(file, "PNG")
    return file.getvalue()
