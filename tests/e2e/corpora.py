"""Compares the decoder with independent readers on every picture of some folders. The readers are
libvips, ImageMagick, FFmpeg, Chromium, and numpy for cases that these leave out.

    .venv/bin/pip install pyvips   # beside libvips, ImageMagick, FFmpeg and Chromium
    PYTHONPATH=.:tests/support nice .venv/bin/python tests/e2e/corpora.py FOLDER...

Meant for the test suites of Pillow, pillow-heif and sharp. A picture is "right" if one reader shows
the same, "wrong" if every reader that decodes it differs, "alone" if no reader decodes it, and
"refused" if our decoder rejects it, with the readers that accept it. Only first frames count.
"""

import base64
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from factories import srgb_encoded
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from pillow_heif import register_heif_opener

from workers.contract.errors import GDSRError
from workers.contract.images.formats import ImageFormat
from workers.contract.images.headers import read_header
from workers.pictures.decode import decode
from workers.pictures.picture import with_bits

Pixels = NDArray[np.uint8]
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

_MAX_PIXELS = 64_000_000
_SECONDS = 120
#: Limits for the mean and the 99th percentile of the differences, in levels of 255: codecs round,
#: and some readers interpolate subsampled chroma more smoothly.
_CLOSE = (1.0, 12.0)


class Verdict(NamedTuple):
    word: str
    path: Path
    detail: str


def judged(path: Path) -> Verdict:
    data = path.read_bytes()
    try:
        header = read_header(BytesIO(data))
        frame = 0 if header.frames != 1 else None
        picture = with_bits(decode(data, max_pixels=_MAX_PIXELS, frame=frame), 8)
    except GDSRError as refusal:
        others = [name for name, reader in READERS.items() if _read(reader, path) is not None]
        said = f"{refusal} | read by: {', '.join(others) or 'nobody'}"
        return Verdict("refused", path, said)
    ours = np.dstack((picture.colour, np.full(picture.colour.shape[:2], 255, np.uint8)))
    if picture.alpha is not None:
        ours[..., 3] = picture.alpha
    found = []
    for name, reader in READERS.items():
        theirs = _read(reader, path)
        if theirs is None:
            continue
        if header.format is ImageFormat.BMP:
            theirs = _as_meant(ours, theirs)
        difference = _difference(ours, theirs)
        if difference is not None and difference <= _CLOSE and difference[1] <= _CLOSE[1]:
            return Verdict("right", path, f"as {name}")
        found.append(f"{name} {theirs.shape if difference is None else difference}")
    return Verdict("wrong" if found else "alone", path, f"{header} {picture.warnings} {found}")


def _as_meant(ours: Pixels, theirs: Pixels) -> Pixels:
    """Return a BMP without intended differences. An alpha channel that is clear everywhere counts
    as absent, as many writers leave it empty. Pixels that runs skip are clear, of any colour.
    """
    if not theirs[..., 3].any():
        theirs = np.dstack((theirs[..., :3], np.full(theirs.shape[:2], 255, np.uint8)))
    return np.where(ours[..., 3:] == 0, ours, theirs) if ours.shape == theirs.shape else theirs


def _difference(ours: Pixels, theirs: Pixels) -> tuple[float, float] | None:
    """Mean and 99th percentile of visible differences; None if the sizes differ."""
    if ours.shape != theirs.shape:
        return None
    seen = [image[..., :3] * (image[..., 3:] / 255) for image in (ours, theirs)]
    off = np.abs(np.dstack((seen[0] - seen[1], ours[..., 3] - theirs[..., 3].astype(float))))
    return round(float(off.mean()), 2), round(float(np.percentile(off, 99)), 1)


def _read(reader: Callable[[Path], Pixels], path: Path) -> Pixels | None:
    """Return the pixels that a reader decodes, (H, W, 4), or None if it fails."""
    try:
        return reader(path)
    except Exception:  # noqa: BLE001 - readers fail in many ways
        return None


def _rgba(image: Any) -> Pixels:
    return np.asarray(image.convert("RGBA"))


def _libvips(path: Path) -> Pixels:
    import pyvips

    image = pyvips.Image.new_from_file(str(path), fail_on="truncated").autorot()
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform(
            "srgb", embedded=True, intent="relative", black_point_compensation=True, depth=8
        )
    image = image.colourspace("srgb")
    if not image.hasalpha():
        image = image.bandjoin(255)
    return np.asarray(image.cast("uchar").numpy())


def _imagemagick(path: Path) -> Pixels:
    flat = ["-background", "none", "-flatten"] if path.read_bytes()[:4] == b"GIF8" else []
    with tempfile.NamedTemporaryFile(suffix=".icc") as profile:
        Path(profile.name).write_bytes(_SRGB)
        return _piped(
            "convert", f"{path}[0]", *flat, "-auto-orient", "-intent", "relative",
            "-black-point-compensation", "-profile", profile.name, "-colorspace", "sRGB",
            "-depth", "8", "png32:-",
        )  # fmt: skip


def _ffmpeg(path: Path) -> Pixels:
    return _piped(
        "ffmpeg", "-v", "error", "-xerror", "-i", str(path), "-frames:v", "1", "-pix_fmt", "rgba",
        "-c:v", "png", "-f", "image2pipe", "-",
    )  # fmt: skip


def _chromium(path: Path) -> Pixels:
    """Return the pixels of a canvas on which Chromium has drawn the picture."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = read_header(BytesIO(path.read_bytes())).format
    page = f"""<pre id=o></pre><script>const i = new Image();
    i.onload = () => {{const c = document.createElement('canvas'); c.width = i.naturalWidth;
    c.height = i.naturalHeight; c.getContext('2d').drawImage(i, 0, 0);
    document.getElementById('o').textContent = c.toDataURL('image/png')}};
    i.src = 'data:image/{kind};base64,{data}'</script>"""
    with tempfile.NamedTemporaryFile("w", suffix=".html") as file:
        file.write(page)
        file.flush()
        shown = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu",
             "--virtual-time-budget=5000", "--dump-dom", f"file://{file.name}"],
            capture_output=True, text=True, check=True, timeout=_SECONDS,
        ).stdout  # fmt: skip
    found = shown.partition("data:image/png;base64,")[2].partition("</pre>")[0]
    return _rgba(Image.open(BytesIO(base64.b64decode(found))))


def _piped(*command: str) -> Pixels:
    run = subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS)
    return _rgba(Image.open(BytesIO(run.stdout)))


def _numpy(path: Path) -> Pixels:
    """Decode samples with Pillow or tifffile, and convert colour here."""
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as file:
            page = file.pages[0].aspage()
            if page.photometric == tifffile.PHOTOMETRIC.CIELAB and page.bitspersample == 16:
                return _of_lab(page.asarray())
    with Image.open(path) as opened:
        if opened.info.get("default_image"):
            opened.seek(1)  # the first frame
        image = ImageOps.exif_transpose(opened)
        if image.mode == "CMYK":
            inks = np.asarray(image).astype(float)
            colour = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
            return np.dstack((colour.round(), np.full(inks.shape[:2], 255))).astype(np.uint8)
        if profile := image.info.get("icc_profile"):
            return _by_profile(image, profile)
        rgba = _rgba(image)
        if opened.format == "PNG":
            return _by_chunks(rgba, path.read_bytes())
        return rgba


def _of_lab(samples: NDArray[Any]) -> Pixels:
    """Convert with LittleCMS, whose Lab is under D50 like that of TIFF (Adobe's technical note)."""
    lab = samples.astype(float)
    lab[..., 1:] = (samples[..., 1:].view(np.int16) / 256 + 128) * 257
    shown = imagecodecs.cms_transform(
        lab.round().astype(np.uint16),
        imagecodecs.cms_profile("lab4"),
        _SRGB,
        colorspace="lab",
        outcolorspace="rgb",
        outdtype=np.uint8,
    )
    return np.dstack((shown, np.full(samples.shape[:2], 255, np.uint8)))


def _by_profile(image: Image.Image, profile: bytes) -> Pixels:
    alpha = image.convert("RGBA").getchannel("A")
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    mode = {"GRAY": "L", "RGB ": "RGB"}[source.profile.xcolor_space]
    target = ImageCms.createProfile("sRGB")
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    shown = ImageCms.profileToProfile(
        image.convert(mode),
        source,
        target,
        1,
        "RGB",
        flags=flags,  # type: ignore[arg-type]
    )
    assert shown is not None
    shown.putalpha(alpha)
    return np.asarray(shown)


def _by_chunks(rgba: Pixels, data: bytes) -> Pixels:
    """Apply gAMA and cHRM by the PNG specification (third edition), section 13.13 and annex C."""
    chunks, at = {}, 8
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if data[at + 8 + length :][:4] == struct.pack(">I", zlib.crc32(name + body)):
            chunks.setdefault(name, body)
        at += 12 + length
    if b"sRGB" in chunks or not {b"gAMA", b"cHRM"} & set(chunks):
        return rgba
    levels = rgba[..., :3] / 255
    gamma = struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000 if b"gAMA" in chunks else None
    curved = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    light = curved if gamma is None else levels ** (1 / gamma)
    if b"cHRM" in chunks:
        pairs = np.array(struct.unpack(">8I", chunks[b"cHRM"])).reshape(4, 2) / 100_000
        ours = np.array(((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))
        to_xyz = [_to_xyz(found) for found in (pairs, ours)]
        light = light @ (np.linalg.inv(to_xyz[1]) @ to_xyz[0]).T
    colour = srgb_encoded(light).round().astype(np.uint8)
    return np.dstack((colour, rgba[..., 3]))


def _to_xyz(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix to XYZ, with white scaled to 1, 1, 1."""
    white, *columns = (np.array((x / y, 1, (1 - x - y) / y)) for x, y in pairs)
    matrix = np.stack(columns, axis=1)
    return np.asarray((matrix * np.linalg.solve(matrix, white)) / white[:, None])


READERS: dict[str, Callable[..., Pixels]] = {
    "libvips": _libvips, "ImageMagick": _imagemagick, "FFmpeg": _ffmpeg, "numpy": _numpy,
    "Chromium": _chromium,
}  # fmt: skip


def main(folders: list[str]) -> int:
    """Print the verdicts and their counts; return 1 if a picture is wrong."""
    register_heif_opener()
    found = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    counts: dict[str, Counter[str]] = {folder: Counter() for folder in folders}
    words: Counter[str] = Counter()
    with ProcessPoolExecutor(2) as pool:
        for verdict in pool.map(judged, found, chunksize=4):
            words[verdict.word] += 1
            folder = next(name for name in folders if verdict.path.is_relative_to(name))
            counts[folder][verdict.word] += 1
            if verdict.word != "right":
                print(verdict.word, verdict.path, verdict.detail, flush=True)  # noqa: T201
    for name, of_folder in counts.items():
        print(name, dict(of_folder))  # noqa: T201
    print(f"{len(found):,} files:", dict(words))  # noqa: T201
    return 1 if words["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
