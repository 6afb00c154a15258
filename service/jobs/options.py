"""The fields of `POST /upscale`, from the query string and the form."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import WithJsonSchema

from service.http import openapi
from service.http.problems import Fault, RequestInvalid
from service.transfer.mistakes import NOT_FETCHED, is_url
from service.transfer.negotiation import preferred_formats
from workers.contract.queue.jobs import FormatChoice, TradeOffChoice, UpscaleChoices
from workers.contract.queue.validation import RequestedOptions
from workers.contract.validation_messages import error_message, shaped

_REGION = "^[0-9]{1,9}(,[0-9]{1,9}){3}$"
RegionChoice = Annotated[
    str,
    shaped(_REGION, "of the form x,y,width,height, such as 0,0,64,48"),
    WithJsonSchema({"type": "string", "pattern": _REGION}),
]


class UpscaleFields(UpscaleChoices):
    """The fields of a request: the options of its job, a file name and a webhook."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(default="", max_length=255, examples=["cat.jpg"])
    """File name of the result. Empty: the file name in the form, if there is one."""

    webhook: str = Field(default="", max_length=1000, examples=["https://a.example/gdsr"])
    """Webhook: URL that receives the job, signed, by POST when it ends; if `/limits` allows it."""


class ResultFields(BaseModel):
    """The options of a derived result."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    output: Literal["psnr", "fused", "gan", "mask"] | None = None
    """One of the stored branches, or the mask: grey, 0 (black) where `fused` uses the faithful
    branch, 255 (white) where it uses the crisp one.
    """

    trade_off: TradeOffChoice | None = None
    """Another slider position, computed from the stored branches."""

    format: FormatChoice | None = None
    """Unset: as in the job; PNG for an unchanged `output`."""

    quality: int | None = Field(default=None, ge=1, le=100)
    """Unset: as in the job."""

    region: RegionChoice | None = None
    """`x,y,width,height`: crop the result to these pixels, all of them inside it."""

    width: int | None = Field(default=None, ge=1, le=1_000_000)
    """Maximum width; a larger result is reduced in linear light with antialiasing."""

    height: int | None = Field(default=None, ge=1, le=1_000_000)
    """Maximum height."""

    dpi: int | None = Field(default=None, ge=1, le=65_535, examples=[300])
    """Dots per inch stated in the file; the pixels do not change. Unset: as in the result."""


class ReadFields(ResultFields):
    """The options of `GET /jobs/{id}/result`; none: the result itself."""

    preview: bool = False
    """With a stored `output` and no other field: a WebP of it, at most 2048 pixels a side."""


class DerivedFields(ResultFields):
    """The options of `POST /jobs/{id}/result`, besides the map."""

    name: str = Field(default="", max_length=255, examples=["cat.jpg"])
    """File name of the result. Empty: that of the job."""


Fields = TypeVar("Fields", bound=BaseModel)


def read_fields(kind: type[Fields], *sources: tuple[str, Iterable[tuple[str, str]]]) -> Fields:
    """Validate the fields of all sources, such as the query, each with its place. A field may be
    given twice, in different places too, with equal values.

    Raises:
        RequestInvalid: lists every invalid field.
    """
    given: dict[str, str] = {}
    place: dict[str, str] = {}
    errors: list[Fault] = []
    for where, fields in sources:
        for name, value in fields:
            if given.setdefault(name, value) != value:
                errors.append(
                    Fault(place=where, name=name, message="given twice with different values")
                )
            place.setdefault(name, where)
    try:
        choice = kind.model_validate(given)
    except ValidationError as invalid:
        for error in invalid.errors():
            name = str(error["loc"][0])
            linked = error["type"] == "extra_forbidden" and is_url(given[name])
            message = NOT_FETCHED if linked else error_message(error)
            errors.append(Fault(place=place[name], name=name, message=message))
    if errors:
        raise RequestInvalid(errors)
    return choice


def requested_options(fields: UpscaleFields, *, accept: str) -> RequestedOptions:
    """The fields as options for the workers. Without a format the `Accept` header decides."""
    preferred = () if "format" in fields.model_fields_set else preferred_formats(accept)
    options = fields.model_dump(exclude={"name", "webhook"})
    return RequestedOptions.model_validate({**options, "preferred": preferred})


def described_fields(kind: type[BaseModel]) -> dict[str, dict[str, object]]:
    """The JSON schema of each field, for the OpenAPI descriptions of query and form."""
    schema = kind.model_json_schema()
    definitions = schema.get("$defs", {})

    def inlined(part: Any) -> Any:
        """Inlines references: they would point into another document."""
        if isinstance(part, list):
            return [inlined(item) for item in part]
        if not isinstance(part, dict):
            return part
        own = {name: inlined(value) for name, value in part.items() if name != "$ref"}
        name = str(part.get("$ref", "")).removeprefix("#/$defs/")
        return {**definitions.get(name, {}), **own}

    properties: dict[str, dict[str, object]] = inlined(schema["properties"])
    return properties


def described_request(
    kind: type[BaseModel],
    about: str,
    *,
    files: Mapping[str, object] = MappingProxyType({}),
    more: Mapping[str, object] = MappingProxyType({}),
    needs: Sequence[str] = (),
    required: bool = False,
) -> dict[str, Any]:
    """A request for OpenAPI: its fields are in the query or in a form with `files`, whose fields it
    `needs`; `more` are further content types.
    """
    fields = described_fields(kind)
    form = openapi.form({**files, **fields}, *needs)
    body = {"description": about, "content": {"multipart/form-data": form, **more}}
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": schema, "description": schema["description"]}
            for name, schema in fields.items()
        ],
        "requestBody": {**body, "required": True} if required else body,
    }


FIELDS = described_fields(UpscaleFields)
