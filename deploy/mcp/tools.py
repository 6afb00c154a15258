"""The tools of `gdsr-mcp`: each is a call of the Python client, with files inside the roots."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from gdsr_client import AsyncClient, ClientError, Job, Unreachable
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from deploy.mcp.roots import Roots, existing_file, new_file, resolve
from deploy.upscale.plan import Step, format_by_name, plan_steps

#: Concurrent pictures of a folder, so that network and workers overlap.
_CONCURRENT = 4

_INSTRUCTIONS = (
    "Enlarges photographs up to four times. trade_off is the slider: 0 is faithful, 1 is crisp "
    "with detail that is likely rather than known, so read no text or number plates above 0. "
    "Files must be inside the allowed folders: {roots}. Relative paths start at the first."
)

Format = Literal["png", "jpeg", "webp", "avif", "tiff", "jxl"]
FilePath = Annotated[str, Field(description="The picture")]
FolderPath = Annotated[str, Field(description="A folder; pictures at any depth are upscaled")]
TradeOff = Annotated[float, Field(ge=0, le=1, description="0 faithful to 1 crisp")]
Scale = Annotated[float | None, Field(ge=1, le=4, description="4 unless given")]
Model = Annotated[str | None, Field(description="One of list_models; the default unless given")]
Overwrite = Annotated[bool, Field(description="Replace an existing file at output")]


class Stored(BaseModel):
    """A file that was written."""

    path: str
    bytes: int


class Upscaled(Stored):
    """A picture that was upscaled."""

    width: int
    height: int
    model: str
    job: str
    """Id of the job, for `blend` if branches were kept."""
    warnings: list[str]


class Failed(BaseModel):
    """A picture that was not upscaled."""

    path: str
    reason: str


class UpscaledFolder(BaseModel):
    """The pictures of a folder."""

    upscaled: list[Upscaled]
    failed: list[Failed]


class ModelSummary(BaseModel):
    """A model that may be named."""

    name: str
    default: bool
    preset: str
    pixels_per_second: dict[str, float]
    """Input pixels per second of each branch, on its fastest device."""


def create_server(
    roots: Roots, url: str, api_key: str | None, *, patience: float = 10.0
) -> MCPServer[Any]:
    """Create the server for the service at `url`, without starting it.

    `patience`: seconds of retries for each request.
    """
    tools = _Tools(roots, partial(AsyncClient, url, api_key=api_key, patience=patience))
    server: MCPServer[Any] = MCPServer(
        "gdsr",
        version=version("gdsr"),
        instructions=_INSTRUCTIONS.format(roots=", ".join(map(str, roots))),
        log_level="WARNING",
    )
    writes, reads = ToolAnnotations(open_world_hint=False), ToolAnnotations(read_only_hint=True)
    server.add_tool(tools.upscale_file, annotations=writes)
    server.add_tool(tools.upscale_folder, annotations=writes)
    server.add_tool(tools.blend, annotations=writes)
    server.add_tool(tools.list_models, annotations=reads)
    server.add_tool(tools.list_limits, annotations=reads)
    return server


class _Tools:
    def __init__(self, roots: Roots, client: Callable[[], AsyncClient]) -> None:
        self._roots, self._client = roots, client

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncClient]:
        """A client; expected errors of the block become a tool error that the caller can read."""
        try:
            async with self._client() as client:
                yield client
        except Unreachable as away:
            raise ToolError(f"the GDSR service does not answer at {away}; is it running?") from None
        except (ClientError, OSError, ValueError) as failure:
            raise ToolError(str(failure)) from None

    async def upscale_file(
        self,
        context: Context[Any, Any],
        *,
        path: FilePath,
        output: Annotated[
            str | None, Field(description="The result; beside the picture unless given")
        ] = None,
        trade_off: TradeOff = 0.5,
        scale: Scale = None,
        model: Model = None,
        format: Annotated[  # noqa: A002 - the word that the API uses
            Format | None, Field(description="By the ending of output, else png")
        ] = None,
        keep_branches: Annotated[
            bool, Field(description="Keep both branches, so that blend works on the job")
        ] = False,
        overwrite: Overwrite = False,
    ) -> Upscaled:
        """Upscale one picture and store the result in a file."""
        async with self._connected() as client:
            source = existing_file(path, self._roots)
            by_name = format_by_name(output or "")
            chosen = format or by_name or "png"
            if by_name not in (None, chosen):
                raise ValueError(f"{output} does not end as a {chosen} file")
            named = output or str(source.with_name(f"{source.stem}-{scale or 4:g}x.{chosen}"))
            target = new_file(named, self._roots, overwrite=overwrite)
            options: dict[str, Any] = {
                "trade_off": trade_off, "scale": scale, "model": model, "format": chosen,
                "keep_branches": keep_branches,
            }  # fmt: skip
            tell = _progress(context, pictures=None)
            job = await client.upscale(
                source, target, on_change=partial(tell, source.name), **options
            )
            return _upscaled(job, target)

    async def upscale_folder(
        self,
        context: Context[Any, Any],
        *,
        path: FolderPath,
        output: Annotated[str, Field(description="The folder for the results")],
        trade_off: TradeOff = 0.5,
        scale: Scale = None,
        model: Model = None,
        format: Format = "png",  # noqa: A002
        overwrite: Overwrite = False,
    ) -> UpscaledFolder:
        """Upscale all pictures of a folder into another; those that fail are named and left out."""
        async with self._connected() as client:
            folder = resolve(path, self._roots)
            if not folder.is_dir():
                raise ValueError(f"there is no folder {path}")
            steps = plan_steps([str(folder)], f"{resolve(output, self._roots)}/", format)
            options: dict[str, Any] = {"trade_off": trade_off, "scale": scale, "model": model}
            options["format"] = format
            done = UpscaledFolder(upscaled=[], failed=[])
            tell = _progress(context, pictures=len(steps))
            room = anyio.CapacityLimiter(_CONCURRENT)

            async def one(client: AsyncClient, step: Step) -> None:
                async with room:
                    try:
                        source = existing_file(step.name, self._roots)
                        target = new_file(str(step.target), self._roots, overwrite=overwrite)
                        job = await client.upscale(
                            source, target, on_change=partial(tell, step.name), **options
                        )
                        done.upscaled.append(_upscaled(job, target))
                    except (ClientError, OSError, ValueError) as failure:
                        done.failed.append(Failed(path=step.name, reason=str(failure)))

            await client.limits()  # reports an unreachable service once
            async with anyio.create_task_group() as tasks:
                for step in steps:
                    tasks.start_soon(one, client, step)
            return done

    async def blend(
        self,
        *,
        job: Annotated[str, Field(description="A job of upscale_file with keep_branches")],
        output: Annotated[str, Field(description="The file to write")],
        trade_off: TradeOff,
        overwrite: Overwrite = False,
    ) -> Stored:
        """Store another position of the slider of a finished job, without the network."""
        async with self._connected() as client:
            target = new_file(output, self._roots, overwrite=overwrite)
            options: dict[str, Any] = {"trade_off": trade_off, "format": format_by_name(output)}
            await client.download(job, target, **options)
            return Stored(path=str(target), bytes=target.stat().st_size)

    async def list_models(self) -> list[ModelSummary]:
        """The models that the service has."""
        async with self._connected() as client:
            models = await client.models()
        return [
            ModelSummary(
                **{name: model[name] for name in ("name", "default", "preset")},
                pixels_per_second=max(
                    (device["pixels_per_second"] for device in model["devices"]),
                    key=lambda speeds: sum(speeds.values()),
                    default={},
                ),
            )
            for model in models
        ]

    async def list_limits(self) -> dict[str, Any]:
        """The limits of the service: sizes, rates, formats, how long results are kept."""
        async with self._connected() as client:
            return await client.limits()


def _progress(
    context: Context[Any, Any], *, pictures: int | None
) -> Callable[[str, Job], Awaitable[None]]:
    """Notifies of the progress of a call: in tiles of one picture, or in pictures of a folder."""
    shares: dict[str, float] = {}
    last = -1.0

    async def tell(name: str, job: Job) -> None:
        nonlocal last
        tiles = job.progress.tiles
        done, total = float(job.progress.tiles_done), float(tiles) or None
        if pictures is not None:
            shares[name] = 1.0 if job.ended else done / tiles if tiles else 0.0
            done, total = sum(shares.values()), float(pictures)
        if done > last:  # the protocol requires that each is larger than the one before
            last = done
            await context.report_progress(done, total, f"{name}: {job}")

    return tell


def _upscaled(job: Job, target: Path) -> Upscaled:
    result = job.result
    if result is None:
        raise ValueError(f"job {job.id} has no result")
    return Upscaled(
        path=str(target),
        bytes=result.size,
        width=result.width,
        height=result.height,
        model=result.model,
        job=job.id,
        warnings=list(result.warnings),
    )
