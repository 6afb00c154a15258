"""Untrusted zips are checked before inflation, and inflated only to the sizes that they declare."""

import io
import struct
import sys
import tracemalloc
import zipfile
import zlib
from types import FrameType

import pytest
from archives import linked, overlapping, with_directory_field, zipped, zipped_unflagged

from workers.contract.errors import (
    ArchiveInvalid,
    BatchEmpty,
    BatchTooLarge,
    EntryDamaged,
    ImageUnsupported,
)
from workers.contract.images.names import UniqueNames, safe_path
from workers.contract.images.zips import check_is_file, inflated, open_archive, picture_entries

GOOD = zipped({"a.png": b"one" * 100, "b.png": b"two"}, deflated=True)
ENCRYPTED = with_directory_field(GOOD, 8, "<H", 1)


def entries(
    data: bytes, *, max_pictures: int = 10, max_bytes: int = 10**6
) -> list[zipfile.ZipInfo]:
    archive = open_archive(io.BytesIO(data))
    return picture_entries(archive, max_pictures=max_pictures, max_bytes=max_bytes)


def first(data: bytes) -> bytes:
    """Return all bytes of the first entry."""
    archive = open_archive(io.BytesIO(data))
    (entry, *_) = picture_entries(archive, max_pictures=10**4, max_bytes=10**12)
    return b"".join(inflated(archive, entry))


def test_the_files_come_in_order_and_whole() -> None:
    assert [entry.filename for entry in entries(GOOD)] == ["a.png", "b.png"]
    assert first(GOOD) == b"one" * 100


def test_files_that_desktops_add_are_no_pictures() -> None:
    data = zipped(
        {"a/": b"", "a/b.png": b"x", "__MACOSX/a/._b.png": b"x", "a/.DS_Store": b"x",
         "Thumbs.db": b"x", "a\\desktop.ini": b"x"}
    )  # fmt: skip

    assert [entry.filename for entry in entries(data)] == ["a/b.png"]


NOT_ZIPS = {
    "nothing like it": b"\xff\xd8\xff\xe0" * 100,
    "cut off": GOOD[:-30],
    "its end alone": GOOD[-22:],
    "a huge directory": GOOD[:-10] + struct.pack("<IIH", 2**31, 0, 0),
    "a version of the future": with_directory_field(GOOD, 6, "<H", 250),
    "a name that is no UTF-8": with_directory_field(GOOD, 8, "<H", 0x800).replace(
        b"a.png", b"\xff.png"
    ),
}


@pytest.mark.parametrize("case", NOT_ZIPS)
def test_a_file_that_is_no_zip_is_refused(case: str) -> None:
    with pytest.raises(ArchiveInvalid, match="not a zip"):
        entries(NOT_ZIPS[case])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ENCRYPTED, "file 1 of the zip has a password"),
        (with_directory_field(GOOD, 10, "<H", zipfile.ZIP_LZMA), "has compression method 14"),
        (with_directory_field(GOOD, 10, "<H", zipfile.ZIP_BZIP2), "has compression method 12"),
        (with_directory_field(GOOD, 10, "<H", 99), "has compression method 99"),
    ],
)
def test_a_zip_that_cannot_be_unpacked_is_refused_at_once(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveInvalid, match=reason):
        entries(data)


def test_a_zip_of_nothing_is_refused() -> None:
    for data in (zipped({}), zipped({"a/": b""}), zipped({".DS_Store": b"x"})):
        with pytest.raises(BatchEmpty):
            entries(data)


def test_too_many_files_and_too_many_bytes_are_refused_by_what_the_directory_says() -> None:
    with pytest.raises(BatchTooLarge, match="exceeds the limit of 1 pictures") as many:
        entries(GOOD, max_pictures=1)
    with pytest.raises(BatchTooLarge, match="exceeds the limit of 302 bytes") as large:
        entries(GOOD, max_bytes=302)

    assert many.value.limits == {"max_batch_pictures": 1}
    assert large.value.limits == {"max_batch_bytes": 302}
    assert len(entries(GOOD, max_pictures=2, max_bytes=303)) == 2


def test_a_bomb_that_declares_its_size_is_refused() -> None:
    bomb = overlapping(1000, size=1_000_000)

    assert len(bomb) < 100_000
    with pytest.raises(BatchTooLarge):
        entries(bomb, max_pictures=1000, max_bytes=500_000_000)


def test_a_bomb_that_lies_gives_no_more_than_it_declared() -> None:
    honest = zipped({"a.png": bytes(50_000_000)}, deflated=True)
    bomb = with_directory_field(honest, 24, "<I", 1000)
    tracemalloc.start()

    with pytest.raises(EntryDamaged, match="CRC"):
        first(bomb)

    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


LIES = {
    "it is longer than it is": with_directory_field(GOOD, 24, "<I", 100_000),
    "it is shorter": with_directory_field(GOOD, 24, "<I", 5),
    "its directory is elsewhere": GOOD[:-6] + struct.pack("<IH", 2**32 - 1, 0),
    "another checksum": with_directory_field(GOOD, 16, "<I", 1),
    "its data is elsewhere": with_directory_field(GOOD, 42, "<I", 7),
    "its data is beyond the end": with_directory_field(GOOD, 42, "<I", 10**6),
    "stored, which it is not": with_directory_field(GOOD, 10, "<H", 0),
    "no deflate data": GOOD[:35] + b"\xff\xff\xff" + GOOD[38:],
}


@pytest.mark.parametrize("case", LIES)
def test_an_entry_that_is_not_what_the_directory_says_is_damaged(case: str) -> None:
    with pytest.raises(EntryDamaged):
        first(LIES[case])


WRITTEN = {
    "UTF-8 with the flag": (["naïve.png", "猫.png"], None),
    "UTF-8 without it": (["naïve.png", "写真/猫.png"], "utf-8"),
    "Shift-JIS": (["写真.png", "ソフト/表.png", "ﾃｽﾄ.png", "IMG_1.png"], "cp932"),
    "Shift-JIS that could be letters": (["テスト.jpg"], "cp932"),
    "Shift-JIS with a backslash inside": (["夏の表.png"], "cp932"),
    "code page 437": (["château/élève première.png", "Größe.png", "Español niño.png"], "cp437"),
    "code page 437 that could be kana": (["télévision.png", "ñandú.png"], "cp437"),
    "code page 437 with more than letters": (["αß.png", "10°.png", "½.png"], "cp437"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_names_are_read_as_they_were_written(case: str) -> None:
    names, encoding = WRITTEN[case]
    files = {name: name.encode() for name in names}
    data = zipped(files) if encoding is None else zipped_unflagged(files, encoding)
    archive = open_archive(io.BytesIO(data))
    found = picture_entries(archive, max_pictures=10, max_bytes=10**6)

    assert [entry.filename for entry in found] == names
    assert [b"".join(inflated(archive, entry)).decode() for entry in found] == names


def test_a_name_in_an_extra_field_counts_if_it_belongs_to_the_name() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for short, long, of in (("a.png", "写真.png", b"a.png"), ("b.png", "old.png", b"x.png")):
            entry = zipfile.ZipInfo(short)
            body = struct.pack("<BI", 1, zlib.crc32(of)) + long.encode()
            other = struct.pack("<HHI", 0x5455, 4, 1)
            entry.extra = other + struct.pack("<HH", 0x7075, len(body)) + body
            archive.writestr(entry, short)
    found = picture_entries(open_archive(file), max_pictures=10, max_bytes=10**6)

    assert [entry.filename for entry in found] == ["写真.png", "b.png"]


def test_a_link_is_no_picture() -> None:
    (entry,) = entries(linked("a.png", "/etc/passwd"))

    with pytest.raises(ImageUnsupported, match="a link"):
        check_is_file(entry)
    check_is_file(entries(GOOD)[0])


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("holiday/cat.jpg", "holiday/cat.jpg"),
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("C:\\Windows\\..\\cat.jpg", "C_/Windows/cat.jpg"),
        ("a//./b/../cat.jpg", "a/b/cat.jpg"),
        ("naïve/猫.jpg", "naïve/猫.jpg"),
        ("con/cat\x00\u202e.jpg", "_con/cat.jpg"),
        ("/".join("abcdefghijkl") + "/x.png", "e/f/g/h/i/j/k/l/x.png"),
        ("a/..", None),
        ("", None),
    ],
)
def test_a_path_leads_nowhere_but_down(given: str, safe: str | None) -> None:
    assert safe_path(given) == safe


def test_names_can_lie_beside_each_other_anywhere() -> None:
    names = UniqueNames()
    given = ["a.png", "A.PNG", "b/a.png", "B/a.png", "a.png/c.png", "b", "none", "none", "d.t/.x"]

    assert [names.add(name) for name in given] == [
        "a.png", "A (2).PNG", "b/a.png", "B/a (2).png", "a.png_c.png", "b (2)", "none", "none (2)",
        "d.t/.x",
    ]  # fmt: skip
    assert names.add("caf\u00e9.png") != names.add("CAFE\u0301.png")
    assert names.add("Cafe\u0301.png") == "Cafe\u0301 (3).png"


def test_equal_names_take_no_more_steps_for_each_that_went_before() -> None:
    names = UniqueNames()
    steps = 0

    def count(frame: FrameType, event: str, _: object) -> None:  # noqa: ARG001
        nonlocal steps
        steps += event == "call"

    def add_many() -> int:
        before = steps
        sys.setprofile(count)
        try:
            for _ in range(200):
                names.add("a/none.png")
        finally:
            sys.setprofile(None)
        return steps - before

    first, second = add_many(), add_many()

    assert names.add("a/NONE.png") == "a/NONE (401).png"
    assert second <= 1.1 * first
