"""The page's files are small, cached by browsers, of the right type, and allowed by the policy."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from serving import Site

from service.http.problems import KINDS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "service" / "web" / "page"
FILES = sorted(path for path in FOLDER.rglob("*.*") if path.is_file())
#: Fetched only by readers of these languages.
LATER = {"words/de.js", "words/zh.js"}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


class _Page(HTMLParser):
    """Collects what a page loads, and inline code."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "link", "img") and (given.get("src") or given.get("href")):
            self.loaded.append(str(given.get("src") or given.get("href")))
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


def test_the_start_page_loads_its_own_files_and_no_others(site: Site) -> None:
    page = _Page()
    page.feed(site.http.get("/").text)

    assert page.inline == []
    loaded = {path.removeprefix("page/") for path in page.loaded}
    names = {path.relative_to(FOLDER).as_posix() for path in FILES}
    assert loaded == names - LATER - {"index.html"}


def test_no_file_names_another_host() -> None:
    for path in FILES:
        if path.suffix == ".png":
            continue
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_each_file_comes_packed_or_plain_and_is_not_sent_twice(site: Site, path: Path) -> None:
    address = f"/page/{path.relative_to(FOLDER).as_posix()}"
    plain = site.http.get(address, headers={"Accept-Encoding": "identity"})
    packed = site.http.get(address, headers={"Accept-Encoding": "br, gzip"})

    assert plain.headers["Content-Type"] == packed.headers["Content-Type"] == TYPES[path.suffix]
    assert plain.content == packed.content == path.read_bytes()
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != packed.headers["ETag"]
    for answer in (plain, packed):
        known = {"If-None-Match": answer.headers["ETag"]} | (
            {"Accept-Encoding": "gzip" if answer is packed else "identity"}
        )
        again = site.http.get(address, headers=known)
        assert (again.status_code, again.content) == (304, b"")
    assert site.http.head(address).headers["ETag"] == packed.headers["ETag"]


def test_gzip_that_a_client_refuses_is_not_sent(site: Site) -> None:
    answer = site.http.get("/page/app.js", headers={"Accept-Encoding": "gzip;q=0, identity"})

    assert "Content-Encoding" not in answer.headers


def test_nothing_lies_below_the_notch_of_a_phone() -> None:
    """A page that takes the whole screen has to keep clear of the notch by itself."""
    style, page = ((FOLDER / name).read_text() for name in ("page.css", "index.html"))
    assert "viewport-fit=cover" not in page or "safe-area-inset" in style


def test_all_files_together_are_small() -> None:
    assert sum(len(gzip.compress(path.read_bytes())) for path in FILES) < 85_000


def test_no_other_file_is_served(site: Site) -> None:
    for name in ("..%2fdocs.html", "docs.js", "%2fetc%2fpasswd", "page.css.map"):
        assert site.http.get(f"/page/{name}").status_code == 404


def test_every_language_says_the_same_things_and_nothing_that_no_one_asks_for() -> None:
    words = {path.stem: _words(path) for path in (FOLDER / "words").glob("??.js")}
    code = "".join(
        path.read_text()
        for path in FILES
        if path.suffix in (".html", ".js") and path.stem not in words
    )

    assert set(words) == {"en", "de", "zh"}
    for language, said in words.items():
        assert said.keys() == words["en"].keys(), language
        for key, sentence in said.items():
            assert _names(sentence) == _names(words["en"][key]), (language, key)
    assert [key for key in words["en"] if f'"{key}"' not in code] == []


def test_every_language_has_words_for_the_same_problems_of_the_service() -> None:
    problems = {path.stem: _keys(path, "problems") for path in (FOLDER / "words").glob("??.js")}

    assert problems["en"] < problems["de"] == problems["zh"]
    assert problems["de"] <= KINDS.keys() | {"image-cut-off"}


def test_every_language_has_words_for_the_same_warnings_of_the_workers() -> None:
    warnings = {name: _keys(FOLDER / "words" / f"{name}.js", "notes") for name in ("de", "zh")}
    code = "".join(path.read_text() for path in (ROOT / "workers" / "pictures").rglob("*.py"))

    assert warnings["de"] == warnings["zh"]
    assert [warning for warning in warnings["de"] if f'"{warning}"' not in code] == []


def _words(path: Path) -> dict[str, str]:
    return dict(re.findall(r'^  (\w+): "(.*)",$', path.read_text(), re.MULTILINE))


def _keys(path: Path, name: str) -> set[str]:
    """The keys of one of the objects in a file of words."""
    found = re.search(rf"^  {name}: {{\n(.*?)^  }},$", path.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return set(re.findall(r'^    "(.*?)": "', found[1], re.MULTILINE))


def _names(sentence: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", sentence))


def test_swap_files_of_an_editor_beside_the_page_do_not_stop_the_start(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "service", tmp_path / "service")
    (tmp_path / "service/web/page/.app.js.swp").write_bytes(b"\0")
    run = subprocess.run(
        [sys.executable, "-c", "from service.web.routes import page_router; page_router()"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
