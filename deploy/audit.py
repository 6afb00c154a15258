"""Audits the pinned dependencies for known vulnerabilities, without a network.

`advisories.json` beside this file holds the advisories of the Python Packaging Advisory Database
for the packages in `constraints.txt`, and their date; newer advisories are unknown to it. To update
it from a newer copy of the database (`vulns/<package>/*.yaml`):

    python -m deploy.audit --take /path/to/advisory-database --dated 2026-01-31
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
PINS, ADVISORIES = ROOT / "constraints.txt", Path(__file__).with_name("advisories.json")


class Advisory(NamedTuple):
    """A vulnerability of some releases of a package."""

    id: str
    package: str
    ranges: list[list[str]]
    """Half-open ranges of affected releases; "" for an unknown bound."""
    versions: list[str]
    """Further affected releases."""

    def affects(self, version: str) -> bool:
        release = Version(version)
        return version in self.versions or any(
            (first in ("", "0") or Version(first) <= release)
            and (not fixed or release < Version(fixed))
            for first, fixed in self.ranges
        )


def pinned(text: str) -> dict[str, str]:
    """Versions in a constraints file, by normalised package name."""
    pins: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


def affected_releases(pins: dict[str, str], advisories: list[Advisory]) -> list[str]:
    """A line for each affected pinned release."""
    return [
        f"{one.package} {pins[one.package]}: {one.id}"
        for one in advisories
        if one.package in pins and one.affects(pins[one.package])
    ]


def read_advisories(database: Path, packages: set[str]) -> Iterator[Advisory]:
    """The advisories for these packages in a copy of the database."""
    import yaml

    for package in sorted(packages):
        for file in sorted((database / "vulns" / package).glob("*.yaml")):
            entry = yaml.safe_load(file.read_text())
            if entry.get("withdrawn"):
                continue
            for affected in entry["affected"]:
                ranges = [
                    pair
                    for one in affected.get("ranges", [])
                    if one["type"] == "ECOSYSTEM"
                    for pair in _pairs(one["events"])
                ]
                in_ranges = Advisory(entry["id"], package, ranges, [])
                listed = map(str, affected.get("versions", []))
                further = [v for v in listed if not (ranges and in_ranges.affects(v))]
                yield in_ranges._replace(versions=further)


def _pairs(events: list[dict[str, str]]) -> Iterator[list[str]]:
    first = None
    for event in events:
        if "introduced" in event:
            first = str(event["introduced"])
        elif first is not None and "fixed" in event:
            yield [first, str(event["fixed"])]
            first = None
    if first is not None:
        yield [first, ""]


def main() -> int:
    """Print the affected pinned releases; exit status 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=__doc__)
    parser.add_argument("--take", type=Path, help="a copy of the database to update from")
    parser.add_argument("--dated", help="its date, such as 2026-01-31")
    chosen = parser.parse_args()
    pins = pinned(PINS.read_text())
    if chosen.take:
        if not chosen.dated:
            parser.error("--take needs --dated")
        found = sorted(read_advisories(chosen.take, set(pins)))
        lines = ",\n  ".join(json.dumps(one) for one in found)
        ADVISORIES.write_text(
            f'{{"dated": {json.dumps(chosen.dated)}, "advisories": [\n  {lines}\n]}}\n'
        )
    known = json.loads(ADVISORIES.read_text())
    advisories = [Advisory(*one) for one in known["advisories"]]
    try:
        lines_of_text = affected_releases(pins, advisories)
    except InvalidVersion as failure:
        sys.stderr.write(f"{PINS.name}: {failure}\n")
        return 2
    for line in lines_of_text:
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(
        f"{len(pins)} pinned packages, {len(advisories)} advisories of {known['dated']} and "
        f"before: {len(lines_of_text)} apply\n"
    )
    return int(bool(lines_of_text))


if __name__ == "__main__":
    sys.exit(main())
