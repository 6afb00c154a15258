"""An upload: a file, written to the disk as it arrives, and the fields of its form."""

import hashlib
from collections.abc import Callable, Sequence
from typing import IO, BinaryIO

from starlette.requests import ClientDisconnect

from service.http.problems import Fault, RequestInvalid
from service.transfer.mistakes import NOT_FETCHED, is_url
from workers.contract.blobs.base import translated_disk_errors
from workers.contract.errors import GDSRError, ImageMissing, UploadTooLarge

IMAGE_FIELD = "image"


class Upload:
    """A picture: the body itself, one file of a form, or base64 in JSON."""

    file: BinaryIO
    out: IO[bytes]
    """Output for bytes: `file`, or an entry of an archive in it."""
    expected = IMAGE_FIELD
    """Name of the field of a file; empty if no file is expected."""
    takes_json = True
    overhead = 64 * 1024
    """Bytes that a form may add to its files: boundaries, part headers and the other fields."""

    def __init__(self, limit: int) -> None:
        """`limit`: the most bytes of the file."""
        self.limit, self.size = limit, 0
        self.digest = hashlib.sha256()
        self.named = False
        self.file_name = ""
        """As sent in the form, not sanitised."""
        self.fields: Sequence[tuple[str, str]] = ()
        self.place = "form"
        """Place of the fields in problem documents: the form, or for JSON the body."""
        self.client_left: Callable[[], bool] = lambda: False

    @property
    def sha256(self) -> str:
        """Digest of all that was written."""
        return self.digest.hexdigest()

    def check_awaited(self) -> None:
        """Raise ClientDisconnect before a job is queued that nobody waits for any more."""
        if self.client_left():
            raise ClientDisconnect

    def open(self, file: BinaryIO) -> None:
        """Write to this file from now on."""
        self.file = self.out = file

    def begin(self, field: str, file_name: str) -> bool:
        """True if this field of a form is a file; if so, `write` gets its bytes.

        Raises a GDSRError if no further file is allowed.
        """
        if field != self.expected:
            return False
        if self.named:
            raise RequestInvalid.of("form", field, "given twice; send one")
        self.named, self.file_name = True, file_name
        return True

    def write(self, chunk: bytes) -> None:
        """Add some bytes; raises `too_large` beyond the limit."""
        self.size += len(chunk)
        if self.size > self.limit:
            raise self.too_large()
        self.digest.update(chunk)
        with translated_disk_errors():
            self.out.write(chunk)

    def end(self) -> None:
        """Complete the file; raises ImageMissing if it is empty."""
        if not self.size:
            linked = [name for name, value in self.fields if is_url(value)]
            faults = [Fault(place=self.place, name=name, message=NOT_FETCHED) for name in linked]
            raise RequestInvalid(faults) if faults else ImageMissing
        with translated_disk_errors():  # a full disk is reported here, not to a reader of the file
            self.file.flush()

    def close(self) -> None:
        """Release what was opened besides `file`, which is closed by its opener."""

    def too_large(self) -> GDSRError:
        """The error for a body above the size limit."""
        return UploadTooLarge(limit=self.limit)
