"""Decode damaged pictures one after the other, in a process limited like that of a job.

Run as a program with a first and a last number. It prints a line for each picture, so that the
caller knows which one ended it. SIGPROF ends it at a picture that hangs.
"""

import json
import signal
import sys
import tempfile

from mutations import damaged

from workers.contract.errors import GDSRError
from workers.contract.images.formats import check_header
from workers.contract.images.headers import read_header
from workers.contract.images.options import TruncatedMode
from workers.contract.settings import WorkerSettings
from workers.jobs.job_worker import limit_process
from workers.pictures.decode import decode

#: CPU time after which a picture counts as hanging: hundreds of times what any of them takes.
HUNG_SECONDS = 60.0


def main() -> None:
    settings = WorkerSettings()
    limit_process(settings)
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        data, frame = damaged(number)
        signal.setitimer(signal.ITIMER_PROF, HUNG_SECONDS)  # without a handler, it ends the process
        truncated = TruncatedMode.FILL if number % 2 else TruncatedMode.REFUSE
        found = look(data, frame, settings.max_pixels, truncated)
        print(json.dumps(found), flush=True)  # noqa: T201
        signal.setitimer(signal.ITIMER_PROF, 0)


def look(
    data: bytes, frame: int | None, max_pixels: int, truncated: TruncatedMode
) -> dict[str, object]:
    """Return whether the header passed the service's check, and how decoding ended."""
    try:
        with tempfile.TemporaryFile() as file:  # as in the service
            file.write(data)
            check_header(read_header(file, frame=frame), max_pixels=max_pixels, frame=frame)
    except GDSRError as refusal:
        return {"reached": False, "end": refusal.slug}
    try:
        decode(data, max_pixels=max_pixels, frame=frame, truncated=truncated)
    except GDSRError as refusal:
        quotes = "0x" in str(refusal) or "/" in str(refusal)  # an address, or a path
        return {"reached": True, "end": str(refusal) if quotes else refusal.slug}
    except MemoryError:
        return {"reached": True, "end": "job-out-of-memory"}
    except BaseException as failure:  # noqa: BLE001 - any failure is reported
        return {"reached": True, "end": f"{type(failure).__name__}: {failure}"[:300]}
    return {"reached": True, "end": "picture"}


if __name__ == "__main__":
    main()
