"""The audit finds pinned releases with a known vulnerability, and no others."""

from pathlib import Path

import pytest

from deploy.audit import Advisory, affected_releases, pinned, read_advisories

ENTRY = """
id: PYSEC-1
affected:
- package: {ecosystem: PyPI, name: pillow}
  ranges:
  - {type: GIT, events: [{introduced: "0"}, {fixed: abc}]}
  - {type: ECOSYSTEM, events: [{introduced: "9.0"}, {fixed: "10.0.0"}, {introduced: "11"}]}
  versions: ["9.5.0", "10.1.0"]
"""


@pytest.mark.parametrize(
    ("version", "found"),
    [("8.9", False), ("9.0", True), ("9.5.0", True), ("10.0.0", False), ("10.1.0", True),
     ("10.2", False), ("11.0", True), ("12", True)],
)  # fmt: skip
def test_a_release_is_weak_between_where_it_came_in_and_where_it_was_mended(
    version: str,
    found: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    folder = tmp_path / "vulns" / "pillow"
    folder.mkdir(parents=True)
    (folder / "PYSEC-1.yaml").write_text(ENTRY)
    (folder / "PYSEC-2.yaml").write_text(ENTRY + "withdrawn: 2024-01-01T00:00:00Z\n")

    advisories = list(read_advisories(tmp_path, {"pillow", "numpy"}))

    pins = pinned(f"# a comment\nPillow=={version}\nnumpy==2.4\n")
    assert affected_releases(pins, advisories) == ([f"pillow {version}: PYSEC-1"] if found else [])


def test_releases_may_be_listed_one_by_one() -> None:
    advisory = Advisory("PYSEC-3", "six", [], ["1.16.0"])

    assert affected_releases({"six": "1.16.0"}, [advisory]) == ["six 1.16.0: PYSEC-3"]
    assert affected_releases({"six": "1.17.0"}, [advisory]) == []
