"""A zip of all results may be larger than 4 GiB; this takes minutes, as each byte is summed."""

import zipfile
from pathlib import Path

import pytest
from browsing import Visit

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]


def test_a_zip_beyond_four_gigabytes_can_be_unpacked(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    page.set_default_timeout(0)
    # The parts of a large blob are one blob, many times; only the end of the zip is kept.
    size, tail = page.evaluate("""async () => {
      const { zipOf } = await import("/page/panel/zip.js");
      const part = new Blob([new Uint8Array(2 ** 26)]);
      const blob = new Blob(Array(15).fill(part));
      const files = Array.from({ length: 5 }, () => ({ name: "photo.png", blob }));
      const zip = await zipOf([...files, { name: "last.png", blob: new Blob(["last"]) }]);
      const tail = new Uint8Array(await zip.slice(-2000).arrayBuffer());
      return [zip.size, [...tail]];
    }""")
    file = tmp_path / "large.zip"
    with file.open("wb") as written:
        written.seek(size - len(tail))
        written.write(bytes(tail))

    with zipfile.ZipFile(file) as archive:
        files = archive.infolist()
        names = ["photo.png", *(f"photo ({n}).png" for n in range(2, 6)), "last.png"]
        assert [it.filename for it in files] == names
        assert {it.file_size for it in files} == {15 * 2**26, 4}
        lengths = [30 + len(it.filename) + it.file_size for it in files]
        assert [it.header_offset for it in files] == [sum(lengths[:n]) for n in range(6)]
        assert archive.read("last.png") == b"last"
