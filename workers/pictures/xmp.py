"""XMP: without what no longer holds of the result, and with the mark of what a model made.

A packet is text that many programs read by patterns, so it is changed in place and not written
anew: what is not known here stays to the byte.
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
    """A property as XMP writes it within a tag."""
    return re.compile(rf"\s{name}\s*=\s*(?:\"[^\"]*\"|'[^']*')".encode())


def _element(name: str) -> "re.Pattern[bytes]":
    """A property as XMP writes it in tags of its own."""
    return re.compile(rf"<({name})(?:\s[^<>]*)?(?:/>|(?<!/)>.*?</\1\s*>)".encode(), re.DOTALL)


_TURNED = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>)\s*)[1-8]""")
#: The second part of a motion photo, the gain map, the rest of a long packet, and a thumbnail: the
#: result has none of them. The old sides, too.
_STALE = (
    r"GCamera:M(?:otionPhoto|icroVideo)\w*", r"Camera:M(?:otionPhoto|icroVideo)\w*",
    r"hdrgm:\w+", r"HDRGainMap:\w+", r"Container:Directory", r"xmpNote:HasExtendedXMP",
    r"xmp:Thumbnails", r"exif:Pixel[XY]Dimension", r"tiff:Image(?:Width|Length)",
)  # fmt: skip
_STALE_PARTS = [kind(name) for name in _STALE for kind in (_attribute, _element)]
_MARKS = [kind(r"[\w.-]+:DigitalSourceType") for kind in (_attribute, _element)]
_END = re.compile(rb"</[\w.-]+:RDF\s*>|</RDF\s*>")


def upright(xmp: bytes) -> bytes | None:
    """XMP of a picture that is upright now and alone in its file; None if it cannot be read."""
    xmp = _TURNED.sub(rb"\g<1>1", xmp)
    for part in _STALE_PARTS:
        xmp = part.sub(b"", xmp)
    return xmp if _is_xml(xmp) else None


def marked(xmp: bytes | None, *, invented: bool) -> bytes:
    """XMP that says that the picture was altered by an algorithm, or holds what a trained model
    `invented`.
    """
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
    """Whether it is well-formed. Entities of its own, which can be made to grow, count as not."""
    if b"<!" in xmp.replace(b"<!--", b"").replace(b"<![CDATA[", b""):
        return False
    try:
        ET.fromstring(xmp.strip(b"\0 \r\n\t"))  # noqa: S314 - no entities
    except (ET.ParseError, ValueError, LookupError):
        return False
    return True
