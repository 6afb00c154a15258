"""Whether a pinned dependency has a known weakness, told without a network.

`advisories.json` beside this file holds what the Python Packaging Advisory Database says of the
packages in `constraints.txt`, and when that was taken from it; younger advisories it cannot know.
With a newer copy of the database on disk (`vulns/<package>/*.yaml`):

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
    """A weakness of some releases of a package."""

    id: str
    package: str
    ranges: list[list[str]]
    """From the first release that has it to the one that has not; "" for one that is not known."""
    versions: list[str]
    """Further releases that have it."""

    def affects(self, version: str) -> bool:
        """Whether that release has it."""
        release = Version(version)
        return version in self.versions or any(
            (first in ("", "0") or Version(first) <= release)
            and (not fixed or release < Version(fixed))
            for first, fixed in self.ranges
        )


def pinned(text: str) -> dict[str, str]:
    """Versions of a constraints file, by the package's normal name."""
    pins: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


def weaknesses(pins: dict[str, str], advisories: list[Advisory]) -> list[str]:
    """A line for each pinned release that an advisory names."""
    return [
        f"{one.package} {pins[one.package]}: {one.id}"
        for one in advisories
        if one.package in pins and one.affects(pins[one.package])
    ]


def taken(database: Path, packages: set[str]) -> Iterator[Advisory]:
    """What a copy of the database says of these packages."""
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
                listed = [] if ranges else [str(v) for v in affected.get("versions", [])]
                yield Advisory(entry["id"], package, ranges, listed)


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
    """Say which pinned release has a known weakness; 1 if any has."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit", description=__doc__)
    parser.add_argument("--take", type=Path, help="a copy of the database, to take anew from")
    parser.add_argument("--dated", help="its day, such as 2026-01-31")
    chosen = parser.parse_args()
    pins = pinned(PINS.read_text())
    if chosen.take:
        if not chosen.dated:
            parser.error("--take needs --dated")
        found = sorted(taken(chosen.take, set(pins)))
        lines = ",\n  ".join(json.dumps(one) for one in found)
        ADVISORIES.write_text(
            f'{{"dated": {json.dumps(chosen.dated)}, "advisories": [\n  {lines}\n]}}\n'
        )
    known = json.loads(ADVISORIES.read_text())
    advisories = [Advisory(*one) for one in known["advisories"]]
    try:
        lines_of_text = weaknesses(pins, advisories)
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
