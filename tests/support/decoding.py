"""Decode damaged pictures one after the other, in a process limited like that of a job.

Run as a program with two numbers; prints a line for each picture, so that whoever started it knows
which one it died of. A picture that takes longer than two seconds of computing ends it.
"""

import json
import signal
import sys
import tempfile

from mutations import damaged

from workers.contract.errors import GDSRError
from workers.contract.images.headers import check_header, read_header
from workers.contract.images.options import TruncatedMode
from workers.contract.settings import WorkerSettings
from workers.jobs.job_worker import limit_process
from workers.pictures.decode import decode

SECONDS = 2.0


def main() -> None:
    settings = WorkerSettings()
    limit_process(settings)
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        data, frame = damaged(number)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whose signal nobody handles
        truncated = TruncatedMode.FILL if number % 2 else TruncatedMode.REFUSE
        found = look(data, frame, settings.max_pixels, truncated)
        print(json.dumps(found), flush=True)  # noqa: T201
        signal.setitimer(signal.ITIMER_PROF, 0)


def look(
    data: bytes, frame: int | None, max_pixels: int, truncated: TruncatedMode
) -> dict[str, object]:
    """Whether its header was good enough to begin, and how it ended."""
    try:
        with tempfile.TemporaryFile() as file:  # as the service does
            file.write(data)
            check_header(read_header(file, frame=frame), max_pixels=max_pixels, frame=frame)
    except GDSRError as refusal:
        return {"begun": False, "end": refusal.slug}
    try:
        decode(data, max_pixels=max_pixels, frame=frame, truncated=truncated)
    except GDSRError as refusal:
        return {"begun": True, "end": refusal.slug}
    except MemoryError:
        return {"begun": True, "end": "job-out-of-memory"}
    except BaseException as failure:  # noqa: BLE001 - that is what is looked for
        return {"begun": True, "end": f"{type(failure).__name__}: {failure}"[:300]}
    return {"begun": True, "end": "picture"}


if __name__ == "__main__":
    main()
