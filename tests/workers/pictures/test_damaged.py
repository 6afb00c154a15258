"""Damaged pictures are decoded or refused, in processes limited like those of jobs.

A codec may crash: then its process ends, and the next picture is decoded in a new one, as in a job
worker. No picture may end otherwise or hang.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.http.problems import KINDS

ROOT = Path(__file__).parents[3]
ANSWERS = {*KINDS, "picture"}


def endings(start: int, stop: int) -> list[dict[str, object]]:
    """Return how each of these pictures ended."""
    found: list[dict[str, object]] = []
    while start + len(found) < stop:
        first = start + len(found)
        run = subprocess.run(
            [sys.executable, str(ROOT / "tests/support/decoding.py"), str(first), str(stop)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests/support"))),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        found += map(json.loads, run.stdout.splitlines())
        if run.returncode:
            assert run.returncode < 0, run.stderr
            number = start + len(found)
            found.append({"reached": True, "end": f"signal {-run.returncode} at picture {number}"})
    return found


def check_all(pictures: int) -> str:
    """Check how the pictures end and return a summary."""
    half = pictures // 2
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(endings, (0, half), (half, pictures))
    found = [ending for part in parts for ending in part]
    reached = sum(bool(ending["reached"]) for ending in found)
    ends = Counter(str(ending["end"]) for ending in found)
    summary = f"{len(found):,} damaged pictures, of which {reached:,} reached a codec: {dict(ends)}"

    assert len(found) == pictures
    assert reached >= pictures / 2
    assert set(ends) <= ANSWERS
    assert ends["picture"] > pictures / 20
    return summary


def test_a_damaged_picture_ends_in_an_answer() -> None:
    check_all(600)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_damaged_pictures_end_in_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = check_all(10_000)
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n")
