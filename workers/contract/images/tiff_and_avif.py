"""Headers of TIFF and AVIF, which consist of tags and boxes at arbitrary file offsets.

Both formats let a file point anywhere, itself included. `Source` keeps every read small and inside
the file, and each chain ends after a fixed number of steps.
"""

import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from io import SEEK_END, BytesIO
from typing import BinaryIO, NamedTuple

from workers.contract.errors import FrameMissing, ImageCorrupt
from workers.contract.images.formats import (
    MAX_BITS,
    RAW,
    ColourKind,
    ImageFormat,
    ImageHeader,
    unsupported,
)

TOO_SHORT = "it ends within its header"
MAX_READ_BYTES = 2**20


class Source:
    """A file with bounded reads: complete, inside the file, and small."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0, SEEK_END)
        self.size = file.tell()

    def at(self, offset: int, count: int) -> bytes:
        """Read `count` bytes at `offset`.

        Raises:
            ImageCorrupt: the file ends before, or the read is too large for a header.
        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise ImageCorrupt(TOO_SHORT)
        if count > MAX_READ_BYTES:
            raise ImageCorrupt(f"its header has a block of {count:,} bytes")
        self._file.seek(offset)
        return self._file.read(count)


class _Tag:
    SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, DESCRIPTION = 254, 256, 257, 258, 262, 270
    CHANNELS, SUB_PAGES, INK_SET, EXTRA = 277, 330, 332, 338
    SAMPLE_FORMAT, DEPTH, DNG_VERSION = 339, 32997, 50706


_TIFF_KINDS = {
    0: (ColourKind.GREY, 1),
    1: (ColourKind.GREY, 1),
    2: (ColourKind.COLOUR, 3),
    3: (ColourKind.PALETTE, 1),
    5: (ColourKind.CMYK, 4),
    6: (ColourKind.COLOUR, 3),
    8: (ColourKind.COLOUR, 3),
    9: (ColourKind.COLOUR, 3),
}
#: Colour filter array and linear raw.
_RAW_KINDS = (32803, 34892)
#: Byte, short, long and long of 8 bytes: the only types that matter here.
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
#: Bits of a sample by its format: unsigned, floating-point, undefined. The decoder takes integers
#: of 24 bits in the wrong byte order.
_TIFF_WHOLE = {*range(1, 33)} - {24}
_TIFF_DEPTHS = {1: _TIFF_WHOLE, 3: {16, 32, 64}, 4: _TIFF_WHOLE}
_TIFF_MAX_TAGS = 4096
#: The first lines of a description by ImageJ, which may write a stack with a single directory.
_IMAGEJ = re.compile(rb"ImageJ=[^\n]*\nimages=([0-9]{1,9})\b")
#: Total tags of all pages.
_TIFF_MAX_ALL_TAGS = 2**16


def tiff_header(source: Source, *, frame: int) -> ImageHeader:
    """Read one of a TIFF's pages, and the number of pages.

    Raises:
        FrameMissing: there is no such page.
    """
    pages, whole, has_mask = _tiff_pages(source)
    if frame >= len(pages):
        raise FrameMissing(frame=frame, frames=len(pages))
    page = pages[frame]
    photometric = page.first(_Tag.PHOTOMETRIC, default=0)
    if page.is_raw or photometric in _RAW_KINDS or source.at(8, 2) == b"CR":
        raise unsupported(RAW)
    if photometric not in _TIFF_KINDS:
        raise unsupported("a TIFF of an unsupported colour space")
    stacked = page.first(_Tag.DESCRIPTION, default=1) if len(pages) == 1 else 1
    if (slices := max(stacked, page.first(_Tag.DEPTH, default=1))) > 1:
        raise unsupported(f"a TIFF of {slices:,} slices in one page")
    kind, colours = _TIFF_KINDS[photometric]
    if kind is ColourKind.CMYK and page.first(_Tag.INK_SET, default=1) != 1:
        raise unsupported("a TIFF of other inks than CMYK")
    form = page.first(_Tag.SAMPLE_FORMAT, default=1)
    if form not in _TIFF_DEPTHS:
        raise unsupported("a TIFF of signed or complex samples")
    bits = max(page.values(_Tag.BITS, default=1))
    if bits not in _TIFF_DEPTHS[form]:
        raise unsupported(f"a TIFF of {bits} bits a channel")
    # 1 and 2 are alpha, 0 is unspecified, a missing tag means alpha; CorelDraw writes 999.
    extras = page.first(_Tag.CHANNELS, default=1) - colours
    has_alpha = extras > 0 and any(
        extra in (1, 2, 999) for extra in page.values(_Tag.EXTRA, default=2)
    )
    return ImageHeader(
        format=ImageFormat.TIFF,
        width=page.first(_Tag.WIDTH, default=0),
        height=page.first(_Tag.HEIGHT, default=0),
        bits=8 if kind is ColourKind.PALETTE else min(bits, MAX_BITS),
        kind=kind,
        has_alpha=has_alpha,
        has_other_channels=extras > has_alpha,
        has_mask=has_mask,
        frames=len(pages) if whole else None,
    )


class _Page(NamedTuple):
    """A page: its index among all, copies and masks included, its offset, and its integer tags."""

    number: int
    offset: int
    tags: dict[int, tuple[int, ...]]
    """At most 8 values each; for a description by ImageJ its number of pictures."""

    def values(self, tag: int, *, default: int) -> tuple[int, ...]:
        return self.tags.get(tag) or (default,)

    def first(self, tag: int, *, default: int) -> int:
        return self.values(tag, default=default)[0]

    @property
    def is_reduced(self) -> bool:
        """True if it is a reduced copy of another page, as written by scanners and cameras."""
        return bool(self.first(_Tag.SUBFILE, default=0) & 1)

    @property
    def is_mask(self) -> bool:
        """True if it is the transparency mask of another page, as written by GDAL."""
        return bool(self.first(_Tag.SUBFILE, default=0) & 4)

    @property
    def is_raw(self) -> bool:
        return _Tag.DNG_VERSION in self.tags or (self.is_reduced and _Tag.SUB_PAGES in self.tags)


def tiff_page(file: BinaryIO, *, frame: int) -> tuple[int, int]:
    """The index of a page among all of the file, copies and masks included, and its offset."""
    page = _tiff_pages(Source(file))[0][frame]
    return page.number, page.offset


class _Layout(NamedTuple):
    """Layout of a TIFF's directories; BigTIFF has offsets of 8 bytes."""

    order: str
    #: Codes of `struct` for a file offset, and for the number of tags.
    place: str
    number: str


def _tiff_layout(source: Source) -> tuple[_Layout, int]:
    """The layout, and the offset of the first page."""
    order, version = struct.unpack("2s2s", source.at(0, 4))
    order = "<" if order == b"II" else ">"
    if b"+" not in version:
        (first,) = struct.unpack(order + "I", source.at(4, 4))
        return _Layout(order, order + "I", order + "H"), first
    size, zero, first = struct.unpack(order + "HHQ", source.at(4, 12))
    if (size, zero) != (8, 0):
        raise ImageCorrupt(f"it is a BigTIFF with offsets of {size} bytes")
    return _Layout(order, order + "Q", order + "Q"), first


def _tiff_pages(source: Source) -> tuple[list[_Page], bool, bool]:
    """All pages except reduced copies and masks of others, whether the list is complete, and
    whether there are masks.
    """
    layout, offset = _tiff_layout(source)
    pages: list[_Page] = []
    seen: set[int] = set()
    tags, has_mask = 0, False
    while offset and offset not in seen:
        number = len(seen)
        seen.add(offset)
        page, offset, count = _tiff_page(source, offset, layout, number)
        if not number or not (page.is_reduced or page.is_mask):
            pages.append(page)
        has_mask |= page.is_mask
        tags += count
        if tags > _TIFF_MAX_ALL_TAGS:
            return pages, False, has_mask
    if not pages:
        raise ImageCorrupt("it has no page")
    if pages[0].is_reduced and not pages[0].is_raw:
        pages = pages[1:] or pages
    return pages, True, has_mask


def _tiff_page(source: Source, offset: int, layout: _Layout, number: int) -> tuple[_Page, int, int]:
    """The page at `offset`, the offset of the next one (0: none), and its number of tags."""
    order, place_code, number_code = layout
    inline = struct.calcsize(place_code)
    entry = 4 + 2 * inline
    start = offset + struct.calcsize(number_code)
    (count,) = struct.unpack(number_code, source.at(offset, start - offset))
    if not 0 < count <= _TIFF_MAX_TAGS:
        raise ImageCorrupt(f"it has a page of {count:,} tags")
    block = source.at(start, entry * count + inline)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(0, entry * count, entry):
        tag, type_code, length = struct.unpack_from(f"{order}HH{place_code[1]}", block, at)
        (place,) = struct.unpack_from(place_code, block, at + entry - inline)
        if (tag, type_code) == (_Tag.DESCRIPTION, 2) and place + length <= source.size:
            found = _IMAGEJ.match(source.at(place, min(length, 64)))
            tags[tag] = (int(found[1]),) if found else ()
        if type_code not in _TIFF_TYPES or not length:
            continue
        values = f"{order}{min(length, 8)}{_TIFF_TYPES[type_code]}"
        if struct.calcsize(values) <= inline:
            tags[tag] = struct.unpack_from(values, block, at + entry - inline)
        elif tag in (_Tag.BITS, _Tag.EXTRA, _Tag.SAMPLE_FORMAT):
            tags[tag] = struct.unpack(values, source.at(place, struct.calcsize(values)))
        else:
            tags[tag] = ()  # only its presence matters
    (following,) = struct.unpack_from(place_code, block, entry * count)
    return _Page(number, offset, tags), following, count


_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis"}
_SEQUENCE_BRANDS = (b"hevc", b"hevx", b"msf1")
_ALPHA_TYPES = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
_GAIN_MAP_TYPE = b"urn:com:apple:photo:2020:aux:hdrgainmap"
#: Item types of coded pictures, and of pictures derived from them.
_PICTURES = (b"hvc1", b"av01", b"grid", b"iden", b"iovl")
_MAX_BOXES = 64
_MAX_PROPERTIES = 1024


def heif_header(source: Source) -> ImageHeader:
    """Read the primary picture of an AVIF or HEIC, and whether the file is a sequence."""
    size, major = struct.unpack(">I4x4s", source.at(0, 12))
    found = source.at(8, max(min(size, source.size, 256) - 8, 4))
    brands = {found[i : i + 4] for i in range(0, len(found), 4)}
    if b"crx " in brands:  # Canon
        raise unsupported(RAW)
    is_avif = bool({b"avif", b"avis"} & brands)
    if not is_avif and not _HEIC_BRANDS & brands:
        raise unsupported("a film, or a picture of an unsupported format")
    animated = major == b"avis"
    meta = _avif_meta(source)
    if meta is None and major in _SEQUENCE_BRANDS:
        raise unsupported("a film without a still picture")
    if meta is None:
        if animated:
            raise unsupported("an AVIF film without a still picture")
        raise ImageCorrupt("it has no description of its picture")

    properties, of_picture = _avif_properties(meta)
    sizes = of_picture[b"ispe"]
    if not sizes:
        raise ImageCorrupt("it has no size")
    width, height = struct.unpack_from(">II", sizes[0], 4)
    if not is_avif and len(clips := of_picture[b"clap"]) and len(clips[0]) >= 16:
        # Padding that the encoder added to make the sides even is cropped again.
        across, of_across, down, of_down = struct.unpack_from(">4I", clips[0])
        width, height = across // max(of_across, 1), down // max(of_down, 1)
    depths = [body[5:] for body in of_picture[b"pixi"]]
    coded_bits, coded_grey = (_av1 if is_avif else _hevc)(of_picture, properties)
    grey = coded_grey or any(len(depth) == 1 for depth in depths)
    return ImageHeader(
        format=ImageFormat.AVIF if is_avif else ImageFormat.HEIC,
        width=width,
        height=height,
        bits=max([8, coded_bits, *(bits for depth in depths for bits in depth)]),
        kind=ColourKind.GREY if grey else ColourKind.COLOUR,
        has_alpha=any(body[4:].startswith(_ALPHA_TYPES) for body in properties[b"auxC"]),
        frames=None if animated else 1,
        cicp=_nclx(of_picture[b"colr"] or properties[b"colr"]),
        has_gain_map=any(_GAIN_MAP_TYPE in body for body in properties[b"auxC"])
        or any(item.kind == b"tmap" for item in _items(dict(_boxes(meta)))),
    )


def has_other_pictures(data: bytes) -> bool:
    """True if a HEIC holds more than its still picture: a burst, a film or the other eye's view."""
    meta = dict(_boxes(_avif_meta(Source(BytesIO(data))) or b""))
    parts = set(_parts(meta.get(b"iref", b"")))
    pictures = [item for item in _items(meta) if item.kind in _PICTURES and not item.is_hidden]
    whole = [item for item in pictures if item.number not in parts]
    return data[8:12] in _SEQUENCE_BRANDS or len(whole) > 1


def _parts(references: bytes) -> Iterator[int]:
    """Items that are only a tile, thumbnail, or auxiliary picture (alpha, depth) of another."""
    size = 4 if references[:1] == b"\1" else 2
    for name, body in _boxes(references[4:]):
        if name in (b"thmb", b"auxl"):
            yield int.from_bytes(body[:size], "big")
        elif name == b"dimg":  # after its own number, and how many there are
            for at in range(size + 2, len(body), size):
                yield int.from_bytes(body[at : at + size], "big")


def with_primary(data: bytes) -> bytes | None:
    """Make the first picture the primary one if the named one is missing; None if it is not, or if
    the first one's number has no room there.
    """
    meta = dict(_boxes(_avif_meta(Source(BytesIO(data))) or b""))
    named, found = _named_primary(meta), _avif_primary(meta)
    body = meta[b"pitm"]
    if named == found or found.bit_length() > 8 * (len(body) - 4):
        return None
    changed = body[:4] + found.to_bytes(len(body) - 4, "big")
    return data.replace(b"pitm" + body, b"pitm" + changed, 1)


def _nclx(colours: list[bytes]) -> tuple[int, int] | None:
    """Code points of primaries and transfer; None if there is an ICC profile, or no nclx."""
    if any(body[:4] in (b"prof", b"rICC") for body in colours):
        return None
    numbers = [struct.unpack_from(">HH", body, 4) for body in colours if body[:4] == b"nclx"]
    return numbers[0] if numbers else None


def _av1(of_picture: "_Properties", properties: "_Properties") -> tuple[int, bool]:
    """Bits of a sample, and whether there is no colour."""
    # A grid picture may have its depth in the cells only.
    codecs = [body[2] for body in of_picture[b"av1C"] or properties[b"av1C"] if len(body) > 2]
    depths = [12 if flags & 0x20 else 10 for flags in codecs if flags & 0x40]
    return max([8, *depths]), any(flags & 0x10 for flags in codecs)


def _hevc(of_picture: "_Properties", properties: "_Properties") -> tuple[int, bool]:
    """As `_av1`, for HEVC (ISO/IEC 14496-15, section 8.3.3.1)."""
    codecs = [body for body in of_picture[b"hvcC"] or properties[b"hvcC"] if len(body) > 18]
    if not codecs:
        raise unsupported("an unsupported kind of HEIF picture")
    depths = [8 + (body[place] & 7) for body in codecs for place in (17, 18)]
    return max(depths), bool(of_picture[b"hvcC"]) and not codecs[0][16] & 3


def file_boxes(source: Source, *, most: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the body of each box of a file (ISO/IEC 14496-12), at most `most`."""
    offset = 0
    for _ in range(most):
        if offset + 8 > source.size:
            return
        size, name = struct.unpack(">I4s", source.at(offset, 8))
        start = offset + 8
        if size == 1:
            (size,) = struct.unpack(">Q", source.at(start, 8))
            start += 8
        elif size == 0:
            size = source.size - offset
        if size < start - offset:
            raise ImageCorrupt(f"it has a box of {size} bytes")
        offset += size
        yield name, start, offset


def _avif_meta(source: Source) -> bytes | None:
    """The body of the box that describes the pictures (`meta`)."""
    for name, start, end in file_boxes(source, most=_MAX_BOXES):
        if name == b"meta":
            return source.at(start, end - start)[4:]  # after version and flags
    return None


_Properties = defaultdict[bytes, list[bytes]]


def _avif_properties(meta: bytes) -> tuple[_Properties, _Properties]:
    """The bodies of all properties by name, and of those of the primary picture."""
    found = dict(_boxes(meta))
    parts = dict(_boxes(found.get(b"iprp", b"")))
    known = list(_boxes(parts.get(b"ipco", b"")))
    everything: _Properties = defaultdict(list)
    for name, body in known:
        everything[name].append(body)
    of_picture: _Properties = defaultdict(list)
    for index in _avif_associations(parts.get(b"ipma", b""), item=_avif_primary(found)):
        if 0 < index <= len(known):
            name, body = known[index - 1]
            of_picture[name].append(body)
    return everything, of_picture


def _avif_primary(meta: dict[bytes, bytes]) -> int:
    """The primary picture; the first one if that is missing."""
    named, items = _named_primary(meta), list(_items(meta))
    pictures = [item.number for item in items if item.kind in _PICTURES and not item.is_hidden]
    if pictures and all(item.number != named for item in items):
        return pictures[0]
    return named


def _named_primary(meta: dict[bytes, bytes]) -> int:
    body = meta.get(b"pitm", b"")
    (item,) = struct.unpack_from(">I" if body[:1] == b"\1" else ">H", body, 4)
    return int(item)


class _Item(NamedTuple):
    number: int
    kind: bytes
    is_hidden: bool


def _items(meta: dict[bytes, bytes]) -> Iterator[_Item]:
    """Items of the file that declare their type (ISO/IEC 23008-12)."""
    body = meta.get(b"iinf", b"")
    for name, info in _boxes(body[8 if body[:1] != b"\0" else 6 :]):
        layout = {2: ">H2x4s", 3: ">I2x4s"}.get(info[0] if info else 0)
        if name == b"infe" and layout and len(info) >= 4 + struct.calcsize(layout):
            number, kind = struct.unpack_from(layout, info, 4)
            yield _Item(number, kind, bool(info[3] & 1))


def _avif_associations(body: bytes, *, item: int) -> Iterator[int]:
    """The property indices of `item`, from 1."""
    if len(body) < 8:
        return
    layout = ">I" if body[0] else ">H"
    width = 2 if body[3] & 1 else 1
    offset = 8
    for _ in range(_MAX_PROPERTIES):
        if offset >= len(body):
            return
        (owner,) = struct.unpack_from(layout, body, offset)
        offset += struct.calcsize(layout)
        (count,) = struct.unpack_from("B", body, offset)
        indices = body[offset + 1 : offset + 1 + count * width]
        offset += 1 + count * width
        if owner == item:
            for at in range(0, len(indices), width):
                # The top bit marks essential properties.
                yield int.from_bytes(indices[at : at + width], "big") & (1 << 8 * width - 1) - 1


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each complete box in `data`."""
    offset = 0
    for _ in range(_MAX_PROPERTIES):
        if offset + 8 > len(data):
            return
        size, name = struct.unpack_from(">I4s", data, offset)
        if size == 0:
            size = len(data) - offset
        if size < 8 or offset + size > len(data):
            return
        yield name, data[offset + 8 : offset + size]
        offset += size
