"""Edits XMP: removes properties that the result makes stale, and marks the use of a model.

Many programs read a packet by text patterns, so it is edited in place and not rewritten: unknown
properties stay unchanged to the byte.
"""

import re
from xml.etree import ElementTree as ET

#: https://cv.iptc.org/newscodes/digitalsourcetype/
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_ENHANCED, _COMPOSITE = "algorithmicallyEnhanced", "compositeWithTrainedAlgorithmicMedia"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

_MARK = f"""<rdf:Description xmlns:rdf="{_RDF}" rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}">\
<Iptc4xmpExt:DigitalSourceType>{_SOURCE_TYPES}%s</Iptc4xmpExt:DigitalSourceType>\
</rdf:Description>"""
_PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">%s</rdf:RDF></x:xmpmeta>\
<?xpacket end="r"?>"""


def _attribute(name: str) -> "re.Pattern[bytes]":
    """Pattern of a property that is written as an XML attribute."""
    return re.compile(rf"\s{name}\s*=\s*(?:\"[^\"]*\"|'[^']*')".encode())


def _element(name: str) -> "re.Pattern[bytes]":
    """Pattern of a property that is written as an XML element."""
    return re.compile(rf"<({name})(?:\s[^<>]*)?(?:/>|(?<!/)>.*?</\1\s*>)".encode(), re.DOTALL)


_TURNED = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>)\s*)[1-8]""")
#: Properties of parts that the result lacks (a motion photo's video, gain map, depth map, extended
#: XMP, thumbnail), and of the old size, places in it, samples, colour space and format.
_STALE = (
    r"\w*Camera:M(?:otionPhoto|icroVideo)\w*", r"Container:Directory", r"hdrgm:\w+",
    r"HDRGainMap:\w+", r"G(?:Depth|Image):\w+", r"xmpNote:HasExtendedXMP", r"xmp:Thumbnails",
    r"exif:(?:Pixel[XY]Dimension|CompressedBitsPerPixel|ColorSpace)",
    r"exif(?:EX)?:(?:Gamma|InteroperabilityIndex)",
    r"exif:(?:Subject(?:Area|Location)|FocalPlane(?:[XY]Resolution|ResolutionUnit))",
    r"tiff:(?:Image(?:Width|Length)|BitsPerSample|SamplesPerPixel|Compression)",
    r"tiff:(?:PhotometricInterpretation|[XY]Resolution|ResolutionUnit)",
    r"photoshop:(?:ICCProfile|ColorMode)", r"dc:format",
)  # fmt: skip
#: Places of faces and of other regions, by the Metadata Working Group, Microsoft and IPTC.
_PLACES = [
    _element(name) for name in (r"mwg-rs:Regions", r"MP:RegionInfo", r"Iptc4xmpExt:ImageRegion")
]
_STALE_PARTS = [kind(name) for name in _STALE for kind in (_attribute, _element)]
_MARKS = [kind(r"[\w.-]+:DigitalSourceType") for kind in (_attribute, _element)]
_END = re.compile(rb"</[\w.-]+:RDF\s*>|</RDF\s*>")


def upright(xmp: bytes) -> bytes | None:
    """Return the XMP for an upright picture alone in its file; None if it is not well-formed."""
    xmp = _TURNED.sub(rb"\g<1>1", xmp)
    for part in _STALE_PARTS:
        xmp = part.sub(b"", xmp)
    return xmp if _is_xml(xmp) else None


def without_places(xmp: bytes) -> bytes:
    """Return the XMP for a picture that was turned or cropped."""
    for part in _PLACES:
        xmp = part.sub(b"", xmp)
    return xmp


def marked(xmp: bytes | None, *, invented: bool) -> bytes:
    """Return the XMP with the mark of an algorithm, or, if `invented`, of a trained model."""
    mark = _MARK % (_COMPOSITE if invented else _ENHANCED)
    for part in _MARKS:
        xmp = part.sub(b"", xmp or b"")
    ends = list(_END.finditer(xmp or b""))
    if xmp and ends:
        at = ends[-1].start()
        changed = xmp[:at] + mark.encode() + xmp[at:]
        if _is_xml(changed):
            return changed
    return (_PACKET % mark).encode()


def _is_xml(xmp: bytes) -> bool:
    """Return whether it is well-formed UTF-8, as embedded XMP must be (XMP part 3), in which the
    patterns above find everything, and defines no entities, which can be made to grow.
    """
    text = xmp.strip(b"\0 \r\n\t")
    if b"\0" in text or b"<!" in text.replace(b"<!--", b"").replace(b"<![CDATA[", b""):
        return False
    try:
        ET.fromstring(text)  # noqa: S314 - no entities
    except (ET.ParseError, ValueError, LookupError):
        return False
    return True
