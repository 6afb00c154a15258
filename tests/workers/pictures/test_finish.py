"""Clients choose whether to keep colour space, metadata and depth."""

import re
import struct
import zlib
from io import BytesIO
from xml.etree import ElementTree as ET

import numpy as np
import pillow_jxl  # noqa: F401 - registers itself
import pytest
import tifffile
from factories import (
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    cmyk_profile,
    grey_profile,
    held,
    luma,
    photo,
    png,
    png_chunk,
    rgb_profile,
    saved,
    srgb_decoded,
    srgb_encoded,
    transparency,
)
from PIL import Image, IptcImagePlugin

from workers.contract.errors import (
    AlphaNotStorable,
    DepthNotStorable,
    ProfileNotStorable,
    ResultTooLarge,
    ScaleTooLarge,
)
from workers.contract.images.formats import ResultFormat, check_result
from workers.contract.images.jxl import jxl_box
from workers.contract.images.options import DepthMode, MetadataMode, PictureChoices, ProfileMode
from workers.pictures.decode import decode
from workers.pictures.encode import encode, encode_preview
from workers.pictures.exif import read_exif
from workers.pictures.finish import marked_as_made, postprocess, preprocess, printed_at
from workers.pictures.formats.png import XMP_START
from workers.pictures.metadata import Metadata
from workers.pictures.picture import Picture
from workers.pictures.reduce import reduced

KEEP_ICC = PictureChoices(icc=ProfileMode.KEEP)
WITH_PROFILE = [result for result in ResultFormat if result is not ResultFormat.JXL]
KEEP_METADATA = PictureChoices(metadata=MetadataMode.KEEP)
P3 = rgb_profile(P3_PRIMARIES)
#: The primaries of Adobe RGB (1998), adapted to D50.
ADOBE_PRIMARIES = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
ADOBE = rgb_profile(ADOBE_PRIMARIES)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a>kept</a></x:xmpmeta>"


def decoded(data: bytes, icc: ProfileMode = ProfileMode.SRGB) -> Picture:
    return decode(data, max_pixels=10_000, icc=icc)


def stored(picture: Picture, result: ResultFormat) -> Image.Image:
    image = Image.open(BytesIO(encode(picture, format=result, quality=95)))
    image.load()
    return image


def in_gamut(primaries: np.ndarray) -> np.ndarray:
    """Return a photograph with colours in the gamut of sRGB, in levels of another space."""
    to_space = np.linalg.inv(primaries) @ SRGB_PRIMARIES
    return srgb_encoded(srgb_decoded(photo(40, 60)) @ to_space.T).round()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("profile", "primaries"),
    [(P3, P3_PRIMARIES), (ADOBE, ADOBE_PRIMARIES)],
    ids=["Display P3", "Adobe RGB"],
)
def test_a_wide_gamut_is_kept_to_the_bit(profile: bytes, primaries: np.ndarray, bits: int) -> None:
    unit = 257 if bits == 16 else 1
    samples = (in_gamut(primaries) * unit).astype(int)
    bare = decoded(png(samples, bits=bits, colour_type=2))
    chunk = (b"iCCP", b"profile\0\0" + zlib.compress(profile))
    data = png(samples, bits=bits, colour_type=2, chunks=[chunk])
    picture, back = decoded(data), postprocess(decoded(data, ProfileMode.KEEP), KEEP_ICC)

    assert picture.bits == back.bits == bits
    assert np.abs(picture.colour.astype(int) - bare.colour).max() > 5 * unit
    assert np.array_equal(back.colour, samples)
    with pytest.raises(ProfileNotStorable, match="`icc` srgb"):
        stored(back, ResultFormat.JXL)
    for result in set(ResultFormat) - {ResultFormat.JXL}:
        assert stored(back, result).info["icc_profile"] == profile
        assert "icc_profile" not in stored(postprocess(picture, PictureChoices()), result).info


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_of_another_gamma_comes_back(bits: int) -> None:
    grey = np.arange(40, 232).reshape(8, 24) * (257 if bits == 16 else 1)
    chunk = (b"iCCP", b"profile\0\0" + zlib.compress(grey_profile(1.8)))
    picture = decoded(png(grey, bits=bits, colour_type=0, chunks=[chunk]), ProfileMode.KEEP)
    back = postprocess(picture, KEEP_ICC)

    assert back.grey
    assert back.profile == grey_profile(1.8)
    assert np.array_equal(back.colour[..., 0], grey)


@pytest.mark.parametrize("result", [None, *WITH_PROFILE])
def test_grey_of_another_gamma_is_shown_the_same_in_every_format(
    result: ResultFormat | None,
) -> None:
    grey = np.tile(np.arange(40, 232, 2, dtype=np.uint8), (32, 1))
    data = saved(grey, "PNG", icc_profile=grey_profile(1.8))
    picture = postprocess(decoded(data, ProfileMode.KEEP), KEEP_ICC)
    file = encode(picture, format=result, quality=95) if result else encode_preview(picture)
    again = decoded(file)

    expected = srgb_encoded((grey / 255) ** 1.8)[..., None]
    assert np.abs(again.colour - expected).max() <= 4
    assert again.warnings == ()


@pytest.mark.parametrize("result", WITH_PROFILE)
def test_grey_with_a_profile_for_rgb_is_stored_in_rgb(result: ResultFormat) -> None:
    grey = luma(photo(20, 32))
    picture = decoded(saved(grey, "PNG", icc_profile=ADOBE), ProfileMode.KEEP)
    image = stored(postprocess(picture, KEEP_ICC), result)

    assert (image.mode, image.info["icc_profile"]) == ("RGB", ADOBE)
    assert np.abs(np.asarray(image) - grey[..., None].astype(int)).max() <= 8


#: Full red, green, cyan and an orange of Display P3, all outside sRGB.
SATURATED = np.array([[[255, 0, 0], [0, 255, 0], [0, 255, 255], [255, 100, 0]]], np.uint8)


def test_colours_that_srgb_does_not_have_come_back() -> None:
    data = saved(SATURATED, "PNG", icc_profile=P3)

    assert not np.array_equal(decoded(data).colour, SATURATED)
    again = stored(postprocess(decoded(data, ProfileMode.KEEP), KEEP_ICC), ResultFormat.PNG)
    assert np.array_equal(np.asarray(again), SATURATED)
    assert again.info["icc_profile"] == P3


def test_a_background_has_its_colour_in_the_space_that_is_kept() -> None:
    clear = np.zeros((20, 32, 4), np.uint8)
    picture = decoded(saved(clear, "PNG", icc_profile=P3), ProfileMode.KEEP)
    choices = PictureChoices(icc=ProfileMode.KEEP, background="#4080c0")
    to_p3 = np.linalg.inv(P3_PRIMARIES) @ SRGB_PRIMARIES
    expected = srgb_encoded(to_p3 @ srgb_decoded(np.array((0x40, 0x80, 0xC0))))

    found = postprocess(picture, choices).colour[0, 0]

    assert np.abs(found - expected).max() <= 1


def test_a_coloured_background_takes_a_grey_picture_to_srgb_and_says_so() -> None:
    samples = np.dstack((np.full((20, 32), 100, np.uint8), np.zeros((20, 32), np.uint8)))
    samples[:, 16:, 1] = 255
    data = saved(samples, "PNG", icc_profile=grey_profile(1.8))
    choices = PictureChoices(icc=ProfileMode.KEEP, background="#ff0000")
    result = postprocess(decoded(data, ProfileMode.KEEP), choices)

    assert result.profile is None
    assert "its background has colour" in result.warnings[0]
    assert result.colour[0, 0].tolist() == [255, 0, 0]
    level = float(srgb_encoded(np.array((100 / 255) ** 1.8)))
    assert np.abs(result.colour[0, -1] - level).max() <= 1


def test_a_picture_in_its_own_space_is_reduced_in_the_light_of_that_space() -> None:
    linear = grey_profile(1.0)
    stripes = np.tile(np.array([40, 200], np.uint8), (64, 32))
    picture = decoded(saved(stripes, "PNG", icc_profile=linear), ProfileMode.KEEP)
    half = reduced(picture, width=32, height=32)

    assert (half.colour[8:-8, 8:-8] == 120).all()  # the curve is linear, so levels average as light


def test_a_broken_profile_is_a_warning_and_is_not_attached() -> None:
    picture = postprocess(
        decoded(saved(photo(20, 32), "PNG", icc_profile=b"rubbish" * 60)), KEEP_ICC
    )

    assert picture.profile is None
    assert "broken colour profile" in picture.warnings[0]
    assert np.array_equal(picture.colour, photo(20, 32))


def exif_of_a_camera() -> Image.Exif:
    exif = held(6)
    exif[0x010F] = "Maker"
    exif[0x9003] = "ignored"
    exif[0x8769] = {0x9003: "2024:05:06 07:08:09", 0xA002: 30, 0xA001: 1, 0x9214: (15, 10)}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    return exif


@pytest.mark.parametrize("result", ResultFormat)
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_metadata_is_kept_on_demand_and_upright(source: str, result: ResultFormat) -> None:
    picture = decoded(saved(photo(), source, exif=exif_of_a_camera(), xmp=XMP, dpi=(300, 300)))
    kept = stored(postprocess(picture, KEEP_METADATA), result)

    exif = kept.getexif()
    assert exif.get(0x0112, 1) == 1
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769) == {0x9003: "2024:05:06 07:08:09"}
    assert exif.get_ifd(0x8825)[1] == "N"
    if source != "PNG":  # Pillow cannot write XMP into PNG
        assert kept.info.get("xmp", XMP) == XMP  # Pillow's JPEG XL reader returns none
        assert (
            decoded(
                encode(postprocess(picture, KEEP_METADATA), format=result, quality=90)
            ).metadata.xmp
            == XMP
        )


COPYRIGHT = "© Jürgen 東京".encode()


def comment(order: str) -> bytes:
    """Return a user's comment: two bytes for a letter, in the byte order of the EXIF."""
    return b"UNICODE\0" + "Grüße".encode("utf-16-le" if order == "<" else "utf-16-be")


def exif_of_letters(order: str) -> bytes:
    """Return EXIF with a copyright beyond ASCII, and a comment in the directory of Exif."""
    text, second = COPYRIGHT + b"\0\0", comment(order)
    entry = order + "HHII"
    return b"".join(
        (
            b"II*\0" if order == "<" else b"MM\0*",
            struct.pack(order + "IH", 8, 2),
            struct.pack(entry, 0x8298, 2, len(COPYRIGHT) + 1, 38),
            struct.pack(entry, 0x8769, 4, 1, 38 + len(text)),
            bytes(4) + text,
            struct.pack(order + "H", 1),
            struct.pack(entry, 0x9286, 7, len(second), 56 + len(text)),
            bytes(4) + second,
        )
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("result", ResultFormat)
def test_kept_exif_has_its_letters_and_types(result: ResultFormat, order: str) -> None:
    data = png(photo().astype(int) * 257, bits=16, colour_type=2)
    data = data[:33] + png_chunk(b"eXIf", exif_of_letters(order)) + data[33:]
    picture = printed_at(decoded(data), 300, result)
    file = encode(picture, format=result, quality=90)
    image = Image.open(BytesIO(file))
    exif = image.getexif()
    stored_as = file if result is ResultFormat.TIFF else image.info["exif"]

    assert exif[0x8298].encode("latin-1") == COPYRIGHT
    assert exif.get_ifd(0x8769)[0x9286] == comment(order)
    assert struct.pack(order + "HHI", 0x9286, 7, len(comment(order))) in stored_as
    if result is ResultFormat.TIFF:
        assert np.array_equal(decoded(file).colour, photo() * np.uint16(257))


@pytest.mark.parametrize("result", ResultFormat)
def test_metadata_is_stripped_unless_it_is_wanted(result: ResultFormat) -> None:
    picture = decoded(saved(photo(), "JPEG", exif=exif_of_a_camera(), xmp=XMP))
    info = stored(postprocess(picture, PictureChoices()), result).info

    assert not {"exif", "xmp", "XML:com.adobe.xmp"} & set(info)


def test_metadata_that_no_jpeg_could_hold_is_left_out_with_a_warning() -> None:
    picture = postprocess(decoded(saved(photo(), "WEBP", xmp=XMP * 2000)), KEEP_METADATA)

    assert picture.metadata.xmp is None
    assert "XMP data of more than 65,000 bytes" in picture.warnings[0]
    stored(picture, ResultFormat.JPEG)


@pytest.mark.parametrize("packed", [False, True])
def test_metadata_of_a_jpeg_xl_is_kept_even_if_it_is_compressed(packed: bool) -> None:  # noqa: FBT001
    exif = exif_of_a_camera().tobytes()
    data = saved(photo(), "JXL", exif=exif, xmp=XMP, compress_metadata=packed)
    metadata = decoded(data).metadata

    assert (b"brobExif" in data) == packed
    assert metadata.exif is not None
    assert read_exif(metadata.exif).tags[0x010F].data == b"Maker\0"
    assert metadata.xmp == XMP
    large = saved(photo(), "JXL", xmp=XMP * 20_000, compress_metadata=packed)
    assert decoded(large).metadata.xmp is None


def test_exif_in_a_jpeg_xl_begins_with_the_offset_of_its_header() -> None:
    metadata = Metadata(exif=exif_of_letters("<"))
    data = encode(Picture(colour=photo(), metadata=metadata), format=ResultFormat.JXL, quality=90)

    assert jxl_box(BytesIO(data), b"Exif") == bytes(4) + exif_of_letters("<")


def test_metadata_that_is_stripped_anyway_is_no_warning() -> None:
    picture = decoded(saved(photo(), "WEBP", xmp=XMP * 2000, icc_profile=b"rubbish" * 60))

    assert len(picture.warnings) == 2
    (warning,) = postprocess(picture, PictureChoices()).warnings
    assert "broken colour profile" in warning


@pytest.mark.parametrize(
    ("source", "depth", "result", "bits"),
    [
        (16, DepthMode.SAME, ResultFormat.PNG, 16),
        (16, DepthMode.EIGHT, ResultFormat.PNG, 8),
        (8, DepthMode.SAME, ResultFormat.PNG, 8),
        (8, DepthMode.SIXTEEN, ResultFormat.PNG, 16),
        (16, DepthMode.SAME, ResultFormat.TIFF, 16),
        (8, DepthMode.SIXTEEN, ResultFormat.TIFF, 16),
        (16, DepthMode.SAME, ResultFormat.JPEG, 8),
        (16, DepthMode.SAME, ResultFormat.WEBP, 8),
    ],
)
def test_the_depth_is_what_was_chosen_as_far_as_the_format_goes(
    source: int, depth: DepthMode, result: ResultFormat, bits: int
) -> None:
    unit = 257 if source == 16 else 1
    picture = decoded(png(photo().astype(int) * unit, bits=source, colour_type=2))
    chosen = preprocess(picture, PictureChoices(depth=depth), result)

    assert chosen.bits == bits
    assert np.array_equal(chosen.colour // (257 if bits == 16 else 1), photo())


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("clear", [False, True])
def test_16_bits_are_written_and_read_back_to_the_last_bit(grey: bool, clear: bool) -> None:  # noqa: FBT001
    random = np.random.default_rng(2)
    colour = random.integers(0, 65536, (40, 70, 3)).astype(np.uint16)
    if grey:
        colour = np.broadcast_to(colour[..., :1], colour.shape)
    alpha = random.integers(0, 65536, (40, 70)).astype(np.uint16) if clear else None
    picture = Picture(colour=colour, alpha=alpha, grey=grey)
    again = decoded(encode(picture, format=ResultFormat.PNG, quality=90))

    assert again.bits == 16
    assert again.grey == grey
    assert np.array_equal(again.colour, colour)
    assert (again.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(again.alpha, alpha)


@pytest.mark.parametrize("result", [ResultFormat.JPEG, ResultFormat.WEBP])
def test_16_bits_are_refused_where_the_format_has_8(result: ResultFormat) -> None:
    with pytest.raises(DepthNotStorable, match="16 bits"):
        check_result(width=1, height=1, format=result, has_alpha=False, bits=16)


def test_transparency_follows_the_depth() -> None:
    picture = Picture(colour=photo(), alpha=transparency())
    deep = preprocess(picture, PictureChoices(depth=DepthMode.SIXTEEN), ResultFormat.PNG)

    assert deep.alpha is not None
    assert np.array_equal(deep.alpha, transparency() * np.uint16(257))


@pytest.mark.parametrize("profile", [None, cmyk_profile(dimming=(0.7, 0.6, 0.9, 0.0))])
def test_a_cmyk_picture_cannot_keep_its_profile_and_says_so(profile: bytes | None) -> None:
    cmyk = Image.fromarray(photo(20, 32)).convert("CMYK")
    picture = decoded(saved(cmyk, "TIFF", icc_profile=profile))
    kept, converted = postprocess(picture, KEEP_ICC), postprocess(picture, PictureChoices())

    assert "the result is in sRGB: a CMYK picture" in kept.warnings[0]
    assert kept.profile is None
    assert np.array_equal(kept.colour, converted.colour)
    assert converted.warnings == ()
    assert "icc_profile" not in stored(kept, ResultFormat.PNG).info


def test_a_transparent_picture_is_refused_for_jpeg_before_the_network_sees_it() -> None:
    clear = Picture(colour=photo(), alpha=transparency())
    white = PictureChoices(background="#ffffff")

    with pytest.raises(AlphaNotStorable):
        preprocess(clear, PictureChoices(), ResultFormat.JPEG)
    preprocess(clear, white, ResultFormat.JPEG)
    preprocess(clear, PictureChoices(), ResultFormat.WEBP)


def test_a_size_that_cannot_be_made_is_refused_before_the_network_sees_it() -> None:
    with pytest.raises(ScaleTooLarge, match=r"30 x 20 pixels and would be enlarged 5\.00 times"):
        preprocess(Picture(colour=photo()), PictureChoices(width=150), ResultFormat.PNG)
    long = Picture(colour=np.zeros((1, 4096, 3), np.uint8))
    with pytest.raises(ResultTooLarge):
        preprocess(long, PictureChoices(), ResultFormat.WEBP)


@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_that_is_opaque_everywhere_is_none(bits: int) -> None:
    samples = np.dstack((photo(), np.full((20, 30), 255))) * (257 if bits == 16 else 1)
    picture = decoded(png(samples, bits=bits, colour_type=6))

    assert picture.alpha is None
    assert stored(preprocess(picture, PictureChoices(), ResultFormat.JPEG), ResultFormat.JPEG)


# XMP, IPTC and the mark

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
SOURCE_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def packet(attributes: str = "", elements: str = "") -> bytes:
    names = "hdrgm GCamera OpCamera GDepth Container dc exif exifEX photoshop"
    spaces = "".join(f' xmlns:{name}="urn:{name}"' for name in names.split())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">'
        f'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{spaces} '
        f'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {attributes}>'
        f"{elements}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def source_types(xmp: bytes | None) -> list[str | None]:
    """Return all source types that an XML parser finds, as attributes or elements."""
    assert xmp is not None
    found: list[str | None] = []
    for node in ET.fromstring(xmp.strip()).iter():  # noqa: S314 - our own
        found += [node.text] if node.tag == SOURCE_TYPE else []
        found += [node.attrib[SOURCE_TYPE]] if SOURCE_TYPE in node.attrib else []
    return found


@pytest.mark.parametrize("name", ["JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    "xmp",
    [packet('tiff:Orientation="6"'), packet("", "<tiff:Orientation>6</tiff:Orientation>")],
    ids=["attribute", "element"],
)
def test_xmp_alone_does_not_turn_a_picture(name: str, xmp: bytes) -> None:
    options = {"lossless": True} if name == "WEBP" else {"quality": 95} if name == "JPEG" else {}
    picture = decoded(saved(photo(), name, xmp=xmp, **options))

    assert picture.colour.shape == (20, 30, 3)
    assert np.abs(picture.colour.astype(int) - photo()).max() <= (40 if name == "JPEG" else 0)


@pytest.mark.parametrize(
    "xmp",
    [packet("tiff:Orientation='6'"), packet("", "<tiff:Orientation>6</tiff:Orientation>")],
    ids=["attribute", "element"],
)
def test_kept_xmp_says_that_the_picture_is_upright(xmp: bytes) -> None:
    picture = decoded(saved(photo(20, 32), "JPEG", exif=held(6), xmp=xmp))
    data = encode(postprocess(picture, KEEP_METADATA), format=ResultFormat.JPEG, quality=90)
    kept = stored(postprocess(picture, KEEP_METADATA), ResultFormat.JPEG).info["xmp"]

    assert picture.colour.shape == (32, 20, 3)
    assert re.search(rb"Orientation\W+(\d)", kept)[1] == b"1"  # type: ignore[index]
    assert decoded(data).colour.shape == (32, 20, 3)


def test_kept_xmp_does_not_speak_of_parts_that_are_gone() -> None:
    xmp = packet(
        'photoshop:ICCProfile="Display P3" dc:format="image/jpeg" hdrgm:Version="1.0" '
        'GCamera:MotionPhoto="1" GCamera:BurstID="kept" dc:a=\'kept\'',
        "<Container:Directory><rdf:Seq><rdf:li Container:b='1'/></rdf:Seq></Container:Directory>"
        "<GCamera:MicroVideoOffset>12</GCamera:MicroVideoOffset>"
        "<exif:ColorSpace>65535</exif:ColorSpace><dc:title>kept</dc:title>"
        "<GDepth:Near>1</GDepth:Near><OpCamera:MotionPhotoOwner>a</OpCamera:MotionPhotoOwner>",
    )
    kept = decoded(saved(photo(), "JPEG", xmp=xmp)).metadata.xmp

    assert kept is not None
    assert kept.count(b"kept") == 3
    for gone in (b"hdrgm:V", b"MotionPhoto", b"Container:D", b"MicroVideo", b"GDepth:N"):
        assert gone not in kept
    for changed in (b"ICCProfile", b"ColorSpace", b"format"):
        assert changed not in kept
    ET.fromstring(kept)  # noqa: S314 - our own


def test_kept_metadata_says_nothing_of_the_old_samples() -> None:
    xmp = packet(
        'tiff:XResolution="72/1" tiff:ResolutionUnit="2" photoshop:ColorMode="4" '
        'exifEX:InteroperabilityIndex="R03" dc:a="kept"',
        "<tiff:BitsPerSample><rdf:Seq><rdf:li>8</rdf:li></rdf:Seq></tiff:BitsPerSample>"
        "<exif:SubjectArea><rdf:Seq><rdf:li>8</rdf:li></rdf:Seq></exif:SubjectArea>"
        "<tiff:Make>kept</tiff:Make>",
    )
    exif = Image.Exif()
    exif[0x8769] = {0x9102: 3.0, 0x9290: "12", 0xA210: 2, 0xA500: 2.2, 0xEA1D: 4158}
    metadata = decoded(saved(photo(), "JPEG", xmp=xmp, exif=exif)).metadata

    assert metadata.exif is not None
    assert metadata.xmp is not None
    found = Image.Exif()
    found.load(metadata.exif)
    assert found.get_ifd(0x8769) == {0x9290: "12"}
    assert metadata.xmp.count(b"kept") == 2
    for changed in (b"Resolution", b"ColorMode", b"BitsPer", b"SubjectArea", b"Interop"):
        assert changed not in metadata.xmp
    ET.fromstring(metadata.xmp)  # noqa: S314 - our own


@pytest.mark.parametrize("orientation", [1, 2, 6])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "deep TIFF"])
def test_places_in_a_picture_are_kept_unless_it_is_turned(name: str, orientation: int) -> None:
    faces = (
        "<mwg-rs:Regions rdf:parseType='Resource'><mwg-rs:RegionList><rdf:Bag>"
        "<rdf:li mwg-rs:Name='Ann'/></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
        "<MP:RegionInfo><rdf:Description><MPRI:Regions><rdf:Bag><rdf:li MPReg:a='Ann'/></rdf:Bag>"
        "</MPRI:Regions></rdf:Description></MP:RegionInfo><dc:title>kept</dc:title>"
        "<Iptc4xmpExt:ImageRegion><rdf:Bag><rdf:li>Ann</rdf:li></rdf:Bag></Iptc4xmpExt:ImageRegion>"
    )
    names = ("mwg-rs", "MP", "MPRI", "MPReg")
    xmp = packet("".join(f" xmlns:{name}='urn:{name}'" for name in names), faces)
    if name == "PNG":
        data = saved(photo(), "PNG", exif=held(orientation))
        data = data[:33] + png_chunk(b"iTXt", XMP_START + xmp) + data[33:]
    elif "TIFF" in name:
        samples = photo().astype(np.uint8 if name == "TIFF" else np.uint16)
        tags = [(274, 3, 1, orientation, True), (700, 1, len(xmp), xmp, True)]
        file = BytesIO()
        tifffile.imwrite(file, samples, photometric="rgb", extratags=tags)
        data = file.getvalue()
    else:
        data = saved(photo(), name, exif=held(orientation), xmp=xmp)
    kept = decoded(data).metadata.xmp

    assert kept is not None
    assert b"kept" in kept
    assert (b"Ann" in kept) == (orientation == 1)


@pytest.mark.parametrize(
    "xmp",
    [
        b"<a><b></a>",
        b"no XML",
        b'<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>',
        '<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>'.encode("utf-16"),
        packet('tiff:Orientation="6"').decode().encode("utf-16-le"),
    ],
    ids=["crossed", "text", "entity", "entity in UTF-16", "UTF-16"],
)
def test_xmp_that_cannot_be_read_is_left_out_with_a_warning(xmp: bytes) -> None:
    metadata = decoded(saved(photo(), "JPEG", xmp=xmp)).metadata

    assert metadata.xmp is None
    assert "not well-formed" in metadata.warnings[0]


IPTC = b"\x1c\x02\x69\0\x05Title\x1c\x02\x50\0\x03Ann"


def jpeg_with_iptc() -> bytes:
    resource = b"8BIM\4\4\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
    body = b"Photoshop 3.0\0" + resource
    return saved(photo(), "JPEG", extra=b"\xff\xed" + struct.pack(">H", len(body) + 2) + body)


@pytest.mark.parametrize("result", [ResultFormat.JPEG, ResultFormat.TIFF])
def test_iptc_is_kept_on_demand(result: ResultFormat) -> None:
    picture = decoded(jpeg_with_iptc())
    kept = stored(postprocess(preprocess(picture, KEEP_METADATA, result), KEEP_METADATA), result)
    stripped = stored(postprocess(picture, PictureChoices()), result)

    assert IptcImagePlugin.getiptcinfo(kept) == {(2, 105): b"Title", (2, 80): b"Ann"}  # type: ignore[arg-type]
    assert IptcImagePlugin.getiptcinfo(stripped) is None  # type: ignore[arg-type]
    again = decoded(encode(postprocess(picture, KEEP_METADATA), format=result, quality=90))
    assert again.metadata.iptc == IPTC


def test_iptc_that_a_format_has_no_place_for_is_left_out_with_a_warning() -> None:
    picture = preprocess(decoded(jpeg_with_iptc()), KEEP_METADATA, ResultFormat.PNG)

    assert picture.metadata.iptc is None
    assert picture.warnings == (
        "left out the IPTC data: png has no place for it (its XMP is kept)",
    )


@pytest.mark.parametrize("result", ResultFormat)
@pytest.mark.parametrize(
    ("trade_off", "word"),
    [(0, "algorithmicallyEnhanced"), (0.01, "compositeWithTrainedAlgorithmicMedia"),
     (1, "compositeWithTrainedAlgorithmicMedia")],
)  # fmt: skip
@pytest.mark.parametrize("choices", [PictureChoices(), KEEP_METADATA], ids=["strip", "keep"])
def test_each_format_says_that_a_model_made_it(
    choices: PictureChoices, trade_off: float, word: str, result: ResultFormat
) -> None:
    old = f"{VOCABULARY}digitalCapture"
    xmp = packet(f'Iptc4xmpExt:DigitalSourceType="{old}"', "<dc:title>kept</dc:title>")
    picture = postprocess(decoded(saved(photo(), "JPEG", xmp=xmp)), choices)
    made = marked_as_made(picture, trade_off=trade_off)
    found = decoded(encode(made, format=result, quality=90)).metadata.xmp

    assert source_types(found) == [VOCABULARY + word]
    assert (b"kept" in (found or b"")) == (choices is KEEP_METADATA)


@pytest.mark.parametrize("xmp", [None, XMP, b"<a/>", b"rubbish"])
def test_a_picture_without_a_packet_of_its_own_gets_one(xmp: bytes | None) -> None:
    picture = Picture(colour=photo(), metadata=Metadata(xmp=xmp))

    found = marked_as_made(picture, trade_off=0).metadata.xmp

    assert source_types(found) == [f"{VOCABULARY}algorithmicallyEnhanced"]


def test_a_mark_that_is_there_is_replaced() -> None:
    once = marked_as_made(Picture(colour=photo()), trade_off=0)

    assert source_types(marked_as_made(once, trade_off=1).metadata.xmp) == [
        f"{VOCABULARY}compositeWithTrainedAlgorithmicMedia"
    ]
