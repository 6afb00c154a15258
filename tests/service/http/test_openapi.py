"""The OpenAPI description equals the stored one, so that every change of the interface is reviewed.

python tests/service/http/test_openapi.py > tests/service/http/openapi.json
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.jobs.options import UpscaleFields
from service.settings import ServiceSettings

SNAPSHOT = Path(__file__).parent / "openapi.json"
HOW = (
    "if it is meant to: python tests/service/http/test_openapi.py > tests/service/http/openapi.json"
)


def described(**settings: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return create_app(ServiceSettings(blob_dir=Path(folder), **settings)).openapi()


def text(part: Any, *, depth: int = 0) -> str:
    """Format as JSON with a line for each response, field and schema, but not for smaller parts."""
    if depth == 5 or not isinstance(part, dict) or not part:
        return json.dumps(part, sort_keys=True)
    lines = [f"{json.dumps(name)}: {text(part[name], depth=depth + 1)}" for name in sorted(part)]
    indent = "\n" + " " * depth
    return "{" + ",".join(f"{indent} {line}" for line in lines) + indent + "}"


def operations(description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, item in description["paths"].items()
        for method, operation in item.items()
    }


def test_the_interface_is_as_it_was() -> None:
    old = json.loads(SNAPSHOT.read_text())
    new = json.loads(text(described()))

    before, after = operations(old), operations(new)
    changed = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    assert changed == [], f"these operations have changed; {HOW}"
    assert old == new, f"the schemas have changed; {HOW}"


@pytest.mark.parametrize(("name", "operation"), operations(described()).items())
def test_each_answer_of_an_operation_is_described(name: str, operation: dict[str, Any]) -> None:
    assert operation["operationId"].replace("_", "").isalpha()
    assert "default" not in operation["responses"]
    for status, response in operation["responses"].items():
        assert "X-Request-ID" in response["headers"]
        assert response["description"] != "Successful Response" or status == "200"
        if int(status) >= 400 and not name.startswith("HEAD"):
            (schema,) = (content["schema"] for content in response["content"].values())
            assert list(response["content"]) == ["application/problem+json"]
            assert schema["allOf"][1]["properties"]["status"] == {"const": int(status)}
        if status in ("429", "503") and name != "GET /readyz":
            assert "Retry-After" in response["headers"]
        if status == "401":
            assert "WWW-Authenticate" in response["headers"]


def test_behind_a_prefix_the_description_names_it_once() -> None:
    description = described(root_path="/gdsr")

    assert description["servers"] == [{"url": "/gdsr"}]
    kinds = [
        kind
        for operation in operations(description).values()
        for response in operation["responses"].values()
        for content in response.get("content", {}).values()
        for part in content["schema"].get("allOf", ())
        for kind in part.get("properties", {}).get("type", {}).get("enum", ())
    ]
    assert len(kinds) > 100
    assert all(kind.startswith("/gdsr/problems/") for kind in kinds)


def test_the_examples_of_the_fields_are_right() -> None:
    upload = described()["paths"]["/upscale"]["post"]
    fields = {field["name"]: field for field in upload["parameters"] if field["in"] == "query"}

    examples = {name: field["schema"].get("examples") for name, field in fields.items()}
    assert {name for name, given in examples.items() if given} >= {"trade_off", "background"}
    for name, given in examples.items():
        for example in given or ():
            UpscaleFields.model_validate({name: example})


if __name__ == "__main__":
    sys.stdout.write(text(described()) + "\n")
