"""Decodes pictures in a child process: a crash, a hang or a lack of memory ends only the child.

The child is a new interpreter, as neither CUDA nor the threads of torch survive a fork. It has the
memory limit of a job (`GDSR_JOB_MEMORY`).
"""

import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from workers.contract.errors import GDSRError
from workers.contract.images.options import PictureChoices
from workers.contract.settings import WorkerSettings
from workers.host.parent_death import dying_with_parent
from workers.pictures.picture import Picture

#: Timeout for decoding a picture, in seconds; decoding takes less than 1 s per million pixels.
_SECONDS = 60.0
#: Not `-m`: the classes that the child pickles would belong to `__main__`.
_CHILD = "from deploy.ray.decoder import main; main()"


class PictureFailed(Exception):
    """A picture has no result; `reason` is a short name, or the slug of a problem type."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Decoder:
    """The parent's side; starts a child when there is none."""

    def __init__(self, settings: WorkerSettings, *, seconds: float = _SECONDS) -> None:
        self._settings, self._seconds = settings, seconds
        self.child: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes, choices: PictureChoices) -> Picture:
        """See `workers.pictures.decode.decode`.

        Raises:
            PictureFailed: the picture is invalid, or the child crashed or took too long.
        """
        if self.child is None or self.child.poll() is not None:
            self._start()
        try:
            self._pipe.send((data, choices))
            if not self._pipe.poll(self._seconds):
                self.close()
                raise PictureFailed("decoder-hung", f"not decoded within {self._seconds:g} seconds")
            answer: Picture | PictureFailed = self._pipe.recv()
        except (EOFError, OSError):
            status = self.close()
            how = signal.strsignal(-status) if status < 0 else f"exit status {status}"
            raise PictureFailed("decoder-crashed", f"the decoder ended: {how}") from None
        if isinstance(answer, PictureFailed):
            raise answer
        return answer

    def close(self) -> int:
        """End the child; return its exit status, as in `subprocess`."""
        if self.child is None:
            return 0
        self._pipe.close()
        try:
            return self.child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()
        finally:
            self.child = None

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            self.child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                preexec_fn=dying_with_parent(),  # noqa: PLW1509
            )
        self._pipe.send(self._settings)


def main() -> None:
    """Run the child: decode pictures until the pipe is closed."""
    from workers.jobs.job_worker import limit_process
    from workers.pictures.decode import decode
    from workers.pictures.opening import load_codecs

    pipe = Connection(int(sys.argv[1]))
    settings: WorkerSettings = pipe.recv()
    limit_process(settings)
    load_codecs()
    while True:
        try:
            data, choices = pipe.recv()
        except EOFError:
            return
        answer: Picture | PictureFailed
        try:
            answer = decode(
                data,
                max_pixels=settings.max_pixels,
                frame=choices.frame,
                icc=choices.icc,
                truncated=choices.truncated,
            )
        except GDSRError as failure:
            answer = PictureFailed(failure.slug, str(failure))  # as a job would report it
        except MemoryError:
            answer = PictureFailed("no-memory", "its pixels need more than GDSR_JOB_MEMORY")
        pipe.send(answer)
