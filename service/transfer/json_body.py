"""A picture in JSON: `{"image": "<base64 or data URI>", "trade_off": 0.5}`."""

import base64
import binascii
import json
import re

from service.http.problems import RequestInvalid
from service.transfer.incoming import IMAGE_FIELD, Upload
from service.transfer.mistakes import mistake

#: The whole body is in memory; larger pictures have to be sent as the body or in a form.
MAX_BYTES = 24 * 1024**2
#: JSON may escape a lone surrogate; such a string cannot be encoded.
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(data: bytearray, upload: Upload) -> list[tuple[str, str]]:
    """The fields of a JSON body; its picture is passed on like the file of a form."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise _wrong("json", "it is not JSON") from None
    if not isinstance(found, dict):
        raise _wrong("json", 'it is not an object, such as {"image": "<base64>"}')
    for text in (*found, *found.values()):
        if isinstance(text, str) and _SURROGATE.search(text):
            raise _wrong("json", "it contains a lone surrogate, which is not Unicode")
    image = found.pop(IMAGE_FIELD, None)
    if image is not None:
        upload.begin(IMAGE_FIELD, "")
        upload.write(decoded_base64(IMAGE_FIELD, image))
    return [(name, _text(name, value)) for name, value in found.items() if value is not None]


def decoded_base64(name: str, image: object) -> bytes:
    """The bytes of a picture in base64 or of a data URI; RequestInvalid names the field `name`."""
    if not isinstance(image, str):
        raise _wrong(name, "it is not a string of base64 or a data URI")
    if image[:5].lower() == "data:":
        about, comma, image = image.partition(",")
        if not comma or not about.lower().endswith(";base64"):
            raise _wrong(name, "only data URIs in base64 are accepted")
    elif wrong := mistake(image[:255].encode(), content_type="", named=False):
        raise _wrong(name, wrong)
    try:
        return base64.b64decode("".join(image.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(name, "it is not base64") from None


def _text(name: str, value: object) -> str:
    """Convert a value to the text that a form would have."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise _wrong(name, "it is neither a string, a number nor a boolean")


def _wrong(name: str, message: str) -> RequestInvalid:
    return RequestInvalid.of("body", name, message)
