"""`gdsr-mcp` serves the official SDK's client, with a real service, workers and queue."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from documents import ROOT, example
from hosts import Site as Workers
from hosts import noise
from networks import tiny_checkpoint
from PIL import Image
from processes import free_port, running_valkey, wait_for
from serving import served

from deploy.mcp.roots import open_roots
from service.settings import ServiceSettings
from workers.host.parent_death import dying_with_parent

mcp = pytest.importorskip("mcp", reason="no MCP SDK: pip install mcp")
pytestmark = pytest.mark.e2e
PYTHONPATH = f"{ROOT}:{ROOT / 'service' / 'client'}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mcp")
    checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
    with running_valkey(folder / "valkey") as valkey:
        workers = Workers(valkey.url, folder / "blobs", checkpoint)
        settings = ServiceSettings(redis_url=valkey.url, blob_dir=folder / "blobs")
        with workers.worker_host(), served(settings) as site:
            yield str(site.http.base_url)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder with pictures, beside a folder that is not allowed."""
    root = tmp_path / "allowed"
    (root / "trip").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    for path in (root / "cat.png", root / "trip" / "one.png", tmp_path / "private" / "me.png"):
        path.write_bytes(noise(200, 150, seed=len(path.name)))
    return root


def with_client(server: Any, scenario: Callable[[Any], Awaitable[None]]) -> None:
    async def connected() -> None:
        async with mcp.Client(server) as client:
            await scenario(client)

    anyio.run(connected)


def called(server: Any, tool: str, **arguments: Any) -> str:
    """Call a tool that must fail and return the text of the error."""
    said: list[str] = []

    async def scenario(client: Any) -> None:
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        said.append(result.content[0].text)

    with_client(server, scenario)
    assert "Traceback" not in said[0]
    return said[0]


def in_process(root: Path, url: str = "http://127.0.0.1:9") -> Any:
    from deploy.mcp.tools import create_server

    return create_server(open_roots([str(root)]), url, None, patience=0)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


@pytest.mark.slow  # starts a worker host and two servers
def test_a_program_on_stdio_upscales_a_file_with_progress_and_moves_the_slider(
    url: str, root: Path
) -> None:
    documented = example("docs/operations.md", "MCP", "json")
    documented = documented.replace("/home/me/Pictures", str(root))
    configured = json.loads(documented.replace("http://127.0.0.1:8000", url))["mcpServers"]["gdsr"]
    assert Path(configured["command"]).name == "gdsr-mcp"
    server = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "deploy.mcp", *configured["args"]],
        env={"PYTHONPATH": PYTHONPATH},
        cwd=root,
    )
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async def scenario(client: Any) -> None:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == [
            "upscale_file", "upscale_folder", "blend", "list_models", "list_limits",
        ]  # fmt: skip
        assert str(root) in client.instructions
        models = (await client.call_tool("list_models")).structured_content
        limits = (await client.call_tool("list_limits")).structured_content
        one = await client.call_tool(
            "upscale_file",
            {"path": "cat.png", "output": "big.png", "keep_branches": True},
            progress_callback=progress,
        )
        other = await client.call_tool(
            "blend",
            {"job": one.structured_content["job"], "output": "crisp.webp", "trade_off": 1},
        )

        assert [(model["name"], model["default"]) for model in models["result"]] == [("tiny", True)]
        assert limits["max_upload_bytes"] > 0
        assert one.structured_content["path"] == str(root / "big.png")
        assert (one.structured_content["width"], one.structured_content["height"]) == (600, 800)
        assert other.structured_content["bytes"] == (root / "crisp.webp").stat().st_size

    with_client(server, scenario)

    assert size(root / "big.png") == size(root / "crisp.webp") == (600, 800)
    done = [one[0] for one in told]
    assert done == sorted(set(done))
    assert told[-1][0] == told[-1][1]
    assert str(told[-1][2]).startswith("cat.png: ")


@pytest.mark.slow
def test_a_program_over_http_upscales_a_folder_and_is_told_what_failed(
    url: str, root: Path
) -> None:
    (root / "trip" / "broken.jpg").write_text("no picture")
    (root / "trip" / "link.png").symlink_to(root.parent / "private" / "me.png")
    port = free_port()
    told: list[tuple[float, float | None]] = []

    async def progress(done: float, total: float | None, _: str | None) -> None:
        told.append((done, total))

    async def scenario(client: Any) -> None:
        result = await client.call_tool(
            "upscale_folder", {"path": "trip", "output": "trip-large"}, progress_callback=progress
        )
        made = result.structured_content
        assert [one["path"] for one in made["upscaled"]] == [str(root / "trip-large" / "one.png")]
        reasons = {Path(one["path"]).name: one["reason"] for one in made["failed"]}
        assert reasons.keys() == {"broken.jpg", "link.png"}
        assert "the file is not a picture" in reasons["broken.jpg"]
        assert "outside the allowed folders" in reasons["link.png"]

    with subprocess.Popen(
        [sys.executable, "-m", "deploy.mcp", str(root), "--server", url, "--http", str(port)],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        preexec_fn=dying_with_parent(),  # noqa: PLW1509
    ) as process:
        try:
            wait_for(lambda: listens(port), what="gdsr-mcp")
            with_client(f"http://127.0.0.1:{port}/mcp", scenario)
        finally:
            process.terminate()

    assert size(root / "trip-large" / "one.png") == (600, 800)
    assert not (root / "trip-large" / "link.png").exists()
    assert told[-1] == (1.0, 3.0)


@pytest.mark.parametrize(
    "path", ["../private/me.png", "out/me.png", "me.png", "trip/../../private/me.png"]
)
def test_no_path_and_no_link_leads_out_of_the_roots(path: str, root: Path) -> None:
    private = root.parent / "private"
    (root / "out").symlink_to(private)
    (root / "me.png").symlink_to(private / "me.png")
    server = in_process(root)

    for arguments in ({"path": path}, {"path": "cat.png", "output": path, "overwrite": True}):
        said = called(server, "upscale_file", **arguments)
        assert f"{path} is outside the allowed folders ({root})" in said
    said = called(server, "upscale_folder", path="trip", output=str(Path(path).parent / "x"))
    assert "outside the allowed folders" in said or path == "me.png"
    assert list(private.iterdir()) == [private / "me.png"]


def test_bad_paths_are_reported(root: Path) -> None:
    server = in_process(root)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe.png")

    assert "there is no file dog.png" in called(server, "upscale_file", path="dog.png")
    assert "pipe.png is not a file" in called(server, "upscale_file", path="pipe.png")
    assert "not a usable path" in called(server, "upscale_file", path="loop/cat.png")
    assert "not a usable path" in called(server, "upscale_file", path="a\0b")
    assert "there is no folder cat.png" in called(
        server, "upscale_folder", path="cat.png", output="x"
    )
    assert "exists already" in called(server, "upscale_file", path="cat.png", output="trip/one.png")
    (root / "cat-2.5x.png").touch()  # the name of the result unless another is given
    assert "cat-2.5x.png exists already" in called(
        server, "upscale_file", path="cat.png", scale=2.5
    )
    assert "trip is a folder" in called(server, "upscale_file", path="cat.png", output="trip")
    assert "x.png does not end as a jpeg file" in called(
        server, "upscale_file", path="cat.png", output="x.png", format="jpeg"
    )


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("upscale_file", {"path": "cat.png"}),
        ("upscale_folder", {"path": "trip", "output": "large"}),
        ("blend", {"job": "x", "output": "x.png", "trade_off": 0}),
        ("list_models", {}),
    ],
)
def test_a_service_that_is_down_is_reported(
    tool: str, arguments: dict[str, Any], root: Path
) -> None:
    said = called(in_process(root), tool, **arguments)

    assert "the GDSR service does not answer at http://127.0.0.1:9" in said


@pytest.mark.slow
def test_a_call_that_is_cancelled_cancels_its_job(url: str, root: Path) -> None:
    (root / "huge.png").write_bytes(noise(1000, 1000))
    told: list[dict[str, Any]] = []

    def end_of_newest() -> dict[str, Any]:
        with httpx2.Client(base_url=url, timeout=100) as http:
            return wait_for(
                lambda: (
                    (job := http.get("/jobs", params={"limit": 1}).json()["jobs"][0])["state"]
                    not in ("queued", "running")
                    and job
                ),
                what="the end of the job",
            )

    async def scenario(client: Any) -> None:
        with anyio.CancelScope() as scope:

            async def leave(*_: object) -> None:
                scope.cancel()

            await client.call_tool("upscale_file", {"path": "huge.png"}, progress_callback=leave)
        assert scope.cancelled_caught
        # Here, since a server that is left has only seconds to end.
        told.append(await anyio.to_thread.run_sync(end_of_newest))

    with_client(
        mcp.StdioServerParameters(
            command=sys.executable,
            args=["-m", "deploy.mcp", str(root), "--server", url],
            env={"PYTHONPATH": PYTHONPATH},
        ),
        scenario,
    )

    (newest,) = told
    assert (newest["name"], newest["state"]) == ("huge.png", "cancelled")
    assert not (root / "huge-4x.png").exists()


@pytest.mark.slow
def test_a_rejection_by_the_service_is_quoted(url: str, root: Path) -> None:
    server = in_process(root, url)
    (root / "broken.jpg").write_text("no picture")

    assert "the file is not a picture" in called(server, "upscale_file", path="broken.jpg")
    assert "esrgan" in called(server, "upscale_file", path="cat.png", model="esrgan")
    assert "trade_off" in called(server, "upscale_file", path="cat.png", trade_off=2)
    assert "no job" in called(server, "blend", job="x", output="x.png", trade_off=0).lower()
    assert [path.name for path in root.glob("*-4x.png")] == []


def test_a_job_that_is_no_id_leads_to_no_other_address(url: str, root: Path) -> None:
    told = called(in_process(root, url), "blend", job="../models?", output="x.png", trade_off=0)

    assert "there is nothing at this address" in told.lower()
    assert not (root / "x.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["/nowhere"], "/nowhere is not a folder"), ([".", "--http", "0"], "'0' is not a port")],
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "deploy.mcp", *arguments],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr
