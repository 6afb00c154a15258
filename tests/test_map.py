"""ARCHITECTURE.md leads from a question in standard terms to its file in two hops.

The first hop is a line of the table of packages, the second a module of that package: its name or
the first paragraph of its docstring. Both must share a word with the question, and no line of
another package may share more. The file must hold the answer.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from documents import ROOT, read


class Question(NamedTuple):
    """A question, the file that answers it, and a pattern that the answer matches."""

    text: str
    file: str
    answer: str


QUESTIONS = [
    Question("the retry limit of webhooks", "service/webhooks/dispatcher.py", r"^PAUSES = "),
    Question(
        "which addresses a webhook may be delivered to",
        "service/webhooks/delivery.py",
        r"def is_public",
    ),
    Question("the rate limit of an API key", "service/access/rate_limits.py", r"class RateLimit"),
    Question("how API keys are hashed for authentication", "service/access/auth.py", r"sha256\("),
    Question(
        "which Host and Origin headers the guard accepts",
        "service/access/guard.py",
        r"def is_local",
    ),
    Question(
        "the deadline of a silent connection", "service/http/connections.py", r"def _waits_for"
    ),
    Question(
        "the status and title of an error in the contract",
        "workers/contract/errors.py",
        r"slug, status, title = ",
    ),
    Question(
        "how an upload is streamed to the store",
        "service/transfer/uploads.py",
        r"async def receive",
    ),
    Question(
        "how the Accept header is negotiated",
        "service/transfer/negotiation.py",
        r"def preferred_format",
    ),
    Question("when an upload hits the result cache", "service/jobs/cache.py", r"def cache_key"),
    Question("which events a job's stream sends", "service/jobs/stream.py", r"bye"),
    Question("the results a batch zip contains", "service/batches/results.py", r"submit_pack"),
    Question("the readiness and health of the service", "service/ops/health.py", r"readyz"),
    Question(
        "the lifetime of an idempotency key in the queue",
        "workers/contract/queue/idempotency.py",
        r"^LIFETIME = ",
    ),
    Question("how long the lease of a run lasts", "workers/contract/queue/runs.py", r"^LEASE = "),
    Question(
        "whether queue admission refuses a job for lack of room",
        "workers/contract/queue/admission.py",
        r"raise QueueFull",
    ),
    Question(
        "the estimate of when a queued job starts",
        "workers/contract/queue/estimates.py",
        r"def speed",
    ),
    Question("how S3 URLs are signed", "workers/contract/blobs/s3.py", r"AWS4"),
    Question(
        "which picture formats are read and written",
        "workers/contract/images/formats.py",
        r"class ImageFormat",
    ),
    Question(
        "how much a zip archive may unpack to", "workers/contract/images/zips.py", r"def inflated"
    ),
    Question("when the janitor removes expired pictures", "workers/jobs/janitor.py", r"result_ttl"),
    Question("how lost jobs are recovered", "workers/jobs/recovery.py", r"def sweep"),
    Question("how tiles are stitched", "workers/tiles/tiling.py", r"def stitch"),
    Question(
        "which network the model cache evicts", "workers/engine/model_cache.py", r"_MIN_STAY = "
    ),
    Question(
        "how an engine falls back when out of memory",
        "workers/engine/out_of_memory.py",
        r"SMALLEST_TILE = ",
    ),
    Question(
        "how often the supervisor restarts a program that dies",
        "workers/host/supervisor.py",
        r"^MAX_QUICK_EXITS = ",
    ),
    Question(
        "when the watchdog kills an engine that hangs", "workers/host/watchdog.py", r"PATIENCE = "
    ),
    Question("how LPIPS is computed", "model/metrics/lpips.py", r"class LPIPS"),
    Question(
        "the adversarial loss of the trainer", "model/trainer/losses.py", r"def adversarial_loss"
    ),
    Question(
        "how noise and JPEG degradations are applied",
        "model/trainer/degradations/degradations.py",
        r"def shrink",
    ),
    Question(
        "the state a training run is resumed from", "model/trainer/run/state.py", r"def load_state"
    ),
]

_COMMON = {
    "a", "an", "and", "are", "for", "from", "how", "in", "is", "it", "its", "may", "of", "on", "s",
    "that", "the", "to", "when", "whether", "which", "with", "up", "out", "by", "not", "they",
    "be", "much", "often", "long",
}  # fmt: skip
_ROW = re.compile(r"^\| \[`([\w/]+)/`\]\(([\w/.]+)\) \| (.+) \|$", re.MULTILINE)


def words(text: str) -> set[str]:
    """Return a text's significant words without their endings."""
    return {
        word[:5].rstrip("es")
        for word in re.findall(r"[a-z0-9]+", text.lower())
        if word not in _COMMON
    }


@cache
def packages() -> dict[str, set[str]]:
    """Return the words of each package's line in the table."""
    return {
        folder: words(f"{folder.split('/', 1)[-1]} {contents}")
        for folder, _, contents in _ROW.findall(read("ARCHITECTURE.md"))
    }


def first_paragraph(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.split("\n\n")[0]


def test_every_package_has_a_line_on_the_map() -> None:
    folders = {
        str(path.parent.relative_to(ROOT))
        for root in ("service", "workers", "model", "deploy")
        for path in (ROOT / root).rglob("__init__.py")
    }

    assert set(packages()) == folders
    for folder, link, _ in _ROW.findall(read("ARCHITECTURE.md")):
        assert link == f"{folder}/__init__.py"


def test_the_map_answers_thirty_questions() -> None:
    assert len({question.file for question in QUESTIONS}) >= 30


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_a_question_leads_to_its_file_in_two_hops(question: Question) -> None:
    asked = words(question.text)
    path = ROOT / question.file
    folder = question.file.rpartition("/")[0]

    shared = {name: len(asked & line) for name, line in packages().items()}
    best = max(shared.values())
    assert best
    assert shared[folder] == best, {name: found for name, found in shared.items() if found == best}

    module = words(f"{path.stem.replace('_', ' ')} {first_paragraph(path)}")
    assert asked & module

    assert re.search(question.answer, path.read_text(), re.MULTILINE | re.IGNORECASE)
