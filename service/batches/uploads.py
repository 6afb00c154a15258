"""Receives a batch upload: a zip is stored as is, the pictures of a form are put into a zip.

Either way one file is stored, and a job worker unpacks it. Nothing is compressed or decompressed
here.
"""

import zipfile
from contextlib import suppress

from service.http.problems import RequestInvalid
from service.transfer.incoming import IMAGE_FIELD, Upload
from workers.contract.blobs.base import translated_disk_errors
from workers.contract.errors import BatchEmpty, BatchTooLarge, GDSRError
from workers.contract.images.names import UniqueNames, safe_path

ARCHIVE_FIELD = "archive"
#: Allowed overhead of each part of a form.
_PART_OVERHEAD_BYTES = 2048


class FieldsUpload(Upload):
    """A form of fields alone, or an empty body."""

    expected = ""
    takes_json = False

    def __init__(self) -> None:
        super().__init__(0)

    def end(self) -> None:
        """Do nothing: there is no file."""

    def too_large(self) -> GDSRError:
        return RequestInvalid.of("body", "body", "only fields belong here, in the query or a form")


class BatchUpload(Upload):
    """The pictures of a batch: `write` without `begin` means that the body is the file."""

    takes_json = False

    def __init__(self, limit: int, *, max_pictures: int) -> None:
        super().__init__(limit)
        self.overhead = _PART_OVERHEAD_BYTES * (max_pictures + 32)
        self.max_pictures, self.pictures = max_pictures, 0
        self.names = UniqueNames()
        self.field = ""
        self.archive: zipfile.ZipFile | None = None

    def begin(self, field: str, file_name: str) -> bool:
        if field not in (ARCHIVE_FIELD, IMAGE_FIELD):
            return False
        if self.field and (field != self.field or field == ARCHIVE_FIELD):
            message = f"send one `{ARCHIVE_FIELD}`, or several `{IMAGE_FIELD}`"
            raise RequestInvalid.of("form", field, message)
        self.field = field
        if field == ARCHIVE_FIELD:
            self.file_name = file_name
            return True
        self.pictures += 1
        if self.pictures > self.max_pictures:
            raise BatchTooLarge(limit=self.max_pictures, of="pictures")
        name = self.names.add(safe_path(file_name) or f"picture-{self.pictures}")
        # marks where each file begins, and its name
        self.digest.update(f"{self.size} {name}\n".encode())
        with translated_disk_errors():
            self._end_entry()
            self.archive = self.archive or zipfile.ZipFile(self.file, "w")
            self.out = self.archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)
        return True

    def end(self) -> None:
        if not self.size:
            raise BatchEmpty
        with translated_disk_errors():
            self._end_entry()
            if self.archive is not None:
                self.archive.close()
            self.file.flush()
        self.size = self.file.tell()

    def close(self) -> None:
        """Close the zip, ignoring errors, so that the garbage collector does not do it later."""
        with suppress(OSError):
            self._end_entry()
        with suppress(OSError):
            if self.archive is not None:
                self.archive.close()

    def too_large(self) -> GDSRError:
        return BatchTooLarge(limit=self.limit, of="bytes")

    def _end_entry(self) -> None:
        if self.out is not self.file:
            self.out.close()
            self.out = self.file
