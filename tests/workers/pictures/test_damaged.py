"""Damaged pictures in the decoder, in processes limited like those of jobs.

A codec may crash: then that process ends, and the next picture begins in a new one, as it does in a
job worker. What must not be: a picture that ends in anything but an answer, or that takes longer
than two seconds of computing.
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
    """How each of these pictures ended."""
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
            found.append({"begun": True, "end": f"signal {-run.returncode} at picture {number}"})
    return found


def check_all(pictures: int) -> str:
    """The counts, in words."""
    half = pictures // 2
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(endings, (0, half), (half, pictures))
    found = [ending for part in parts for ending in part]
    begun = sum(bool(ending["begun"]) for ending in found)
    ends = Counter(str(ending["end"]) for ending in found)
    summary = f"{len(found):,} damaged pictures, of which {begun:,} reached a codec: {dict(ends)}"

    assert len(found) == pictures
    assert begun >= pictures / 2
    assert set(ends) <= ANSWERS
    assert ends["picture"] > pictures / 20
    return summary


def test_a_damaged_picture_ends_in_an_answer() -> None:
    check_all(300)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_damaged_pictures_end_in_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = check_all(10_000)
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n")
