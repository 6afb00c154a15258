"""A multipart form, parsed while it arrives: files pass through, small fields are kept."""

from collections.abc import Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from service.http.problems import RequestInvalid
from service.transfer.incoming import Upload

MAX_FIELDS = 32
MAX_FIELD_BYTES = 1024
_MAX_PREAMBLE_BYTES = 16 * 1024


class Form:
    """A multipart form: some parts are files, small ones are fields, others are rejected."""

    def __init__(self, parameters: Mapping[bytes, bytes], upload: Upload) -> None:
        if not parameters.get(b"boundary"):
            raise _malformed("the content type names no boundary")
        self.upload = upload
        self._start = b"--" + parameters[b"boundary"]
        self._preamble: bytes | None = b""
        self.in_file = False
        self.fields: list[tuple[str, str]] = []
        self.header = self.value = self.disposition = self.field = b""
        self.name = ""
        try:
            self.parser = MultipartParser(
                parameters[b"boundary"],
                {
                    "on_header_field": self._add_header,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._name_part,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                },
            )
        except FormParserError as failure:
            raise _malformed(str(failure)) from None

    def write(self, chunk: bytes) -> None:
        if self._preamble is not None:
            chunk = self._after_preamble(self._preamble + chunk)
        try:
            self.parser.write(chunk)
        except FormParserError as failure:
            raise _malformed(str(failure)) from None

    def _after_preamble(self, data: bytes) -> bytes:
        """The data behind the preamble, which is ignored (RFC 2046, section 5.1.1)."""
        at = 0 if data.startswith(self._start) else data.find(b"\r\n" + self._start) + 2
        if at == 1:  # not there yet
            self._preamble = data
            if len(data) > _MAX_PREAMBLE_BYTES:
                raise _malformed("it does not begin with its boundary")
            return b""
        self._preamble = None
        return data[at:]

    def end(self) -> list[tuple[str, str]]:
        if self.parser.state != MultipartState.END:
            raise _malformed("it ends before its last boundary")
        return self.fields

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _end_header(self) -> None:
        if self.header.lower() == b"content-disposition":
            self.disposition = self.value
        self.header = self.value = b""

    def _name_part(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.name = _text(options.get(b"name", b""))
        if not self.name:
            raise _malformed("one of its parts has no name")
        file_name = options.get(b"filename", b"").decode(errors="replace")
        self.in_file = self.upload.begin(self.name, file_name)
        if self.in_file:
            return
        if b"filename" in options:
            expected = self.upload.expected
            message = (
                f"there is no such file; send `{expected}`" if expected else "no file belongs here"
            )
            raise RequestInvalid.of("form", self.name, message)
        if len(self.fields) == MAX_FIELDS:
            raise _malformed(f"it has more than {MAX_FIELDS} fields")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self.in_file:
            self.upload.write(data[start:end])
        else:
            self.field += data[start:end]
            if len(self.field) > MAX_FIELD_BYTES:
                message = f"longer than {MAX_FIELD_BYTES:,} bytes"
                raise RequestInvalid.of("form", self.name, message)

    def _end_part(self) -> None:
        if not self.in_file:
            self.fields.append((self.name, _text(self.field)))
        self.disposition = self.field = b""


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _malformed("its fields are not UTF-8") from None


def _malformed(reason: str) -> RequestInvalid:
    return RequestInvalid.of("body", "form", f"the form is malformed: {reason}")
