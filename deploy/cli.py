"""`gdsr-upscale`: upscales pictures and folders, in this process or on a server."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.contract.images.options import PictureChoices
    from workers.contract.settings import WorkerSettings

DESCRIPTION = "Enlarge pictures four times on each side."
_FORMATS = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".jfif": "jpeg", ".webp": "webp",
    ".avif": "avif", ".tif": "tiff", ".tiff": "tiff", ".jxl": "jxl",
}  # fmt: skip
#: File name extensions that a folder is searched for; a named file may have any.
_SUFFIXES = {*_FORMATS, ".bmp", ".gif", ".heic", ".heif"}


def main() -> int:
    """The console script. Exit status 0; 1 after a failure, described on stderr; 2 for wrong
    usage.
    """
    parser = argparse.ArgumentParser(prog="gdsr-upscale", description=DESCRIPTION)
    parser.add_argument("inputs", metavar="IN", nargs="+", type=Path, help="pictures and folders")
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True,
        help=(
            "a file for one picture; a folder for several, for a folder or if it ends in a slash, "
            "with the names of the inputs"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--trade-off", metavar="X", type=_trade_off, default=0.5,
        help="0 = psnr (faithful) to 1 = gan (crisp); default 0.5 = fused",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME|FILE", help="a shipped model, or a checkpoint")
    parser.add_argument(
        "--format", choices=("png", "jpeg", "webp", "avif", "tiff", "jxl", "same"),
        help=(
            "default: by OUT, or png; same: the format of each IN, or png if that cannot be "
            "written"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--quality", type=int, choices=range(1, 101), metavar="1-100", default=90,
        help="of JPEG, WebP, AVIF and JPEG XL; default 90",
    )  # fmt: skip
    parser.add_argument(
        "--server", metavar="URL",
        help="upscale on this service instead of here; the API key is read from GDSR_API_KEY",
    )  # fmt: skip
    _add_choices(parser)
    arguments = parser.parse_args()

    from workers.contract.errors import ConfigurationInvalid

    try:
        jobs = list(_plan(arguments.inputs, arguments.output, arguments.format))
        choices = _choices(arguments)
        if arguments.server:
            from deploy.remote import upscale_there

            options = {
                "trade_off": arguments.trade_off,
                "quality": arguments.quality,
                "model": arguments.model,
                **choices.model_dump(mode="json", exclude_unset=True),
            }
            return int(upscale_there(arguments.server, jobs, options) > 0)
        _check_formats({format_name for _, _, format_name in jobs})
        settings, device = _settings(arguments.model)
        failed = _run(
            jobs,
            settings,
            device,
            trade_off=arguments.trade_off,
            quality=arguments.quality,
            choices=choices,
        )
    except (ConfigurationInvalid, OSError, ValueError) as invalid:
        sys.stderr.write(f"gdsr-upscale: {invalid}\n")
        return 1
    except KeyboardInterrupt:
        return 1
    return int(failed > 0)


def _run(
    jobs: Sequence[tuple[Path, Path, str]],
    settings: "WorkerSettings",
    device: str,
    *,
    trade_off: float,
    quality: int,
    choices: "PictureChoices",
) -> int:
    """Upscale all pictures; returns the number of failures."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeRemaining

    from model.process import prepare_process

    prepare_process(settings.threads)

    from workers.contract.errors import GDSRError
    from workers.contract.images.headers import ResultFormat
    from workers.engine.loading import load_engine
    from workers.engine.local import InProcessEngine
    from workers.pictures.decode import decode
    from workers.pictures.encode import encode
    from workers.pictures.finish import marked_as_made, postprocess, preprocess
    from workers.tasks.pipeline import upscale_picture
    from workers.tiles.trade_off import output_weights

    console = Console(stderr=True)
    with console.status("loading the network"):
        loaded = load_engine(settings, device)
        engine = InProcessEngine(loaded)
    failed, made, started = 0, 0, time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemaining()
    with Progress(*columns, console=console) as progress:
        for source, target, format_name in jobs:
            task = progress.add_task(source.name, total=None)
            try:
                picture = decode(
                    source.read_bytes(),
                    max_pixels=settings.max_pixels,
                    frame=choices.frame,
                    icc=choices.icc,
                )
                picture = upscale_picture(
                    preprocess(picture, choices, ResultFormat(format_name)),
                    engine,
                    model=loaded.default_model,
                    weights=output_weights(trade_off),
                    progress=lambda done, tiles, task=task: progress.update(  # type: ignore[misc]
                        task, completed=done, total=tiles
                    ),
                    alpha=choices.alpha,
                    consistent=choices.consistency,
                )
                picture = postprocess(picture, choices)
                if settings.mark:
                    picture = marked_as_made(picture, trade_off=trade_off)
                for warning in picture.warnings:
                    console.print(f"{source}: {warning}", highlight=False, soft_wrap=True)
                data = encode(
                    picture,
                    format=ResultFormat(format_name),
                    quality=quality,
                    lossless=choices.lossless,
                )
                _write(target, data)
                made += len(data)
            except (GDSRError, OSError) as failure:
                failed += 1
                progress.stop_task(task)
                console.print(f"{source}: {failure}", style="red", highlight=False, soft_wrap=True)
    spent = time.monotonic() - started
    where = jobs[0][1] if len(jobs) == 1 else os.path.commonpath([job[1].parent for job in jobs])
    console.print(
        f"{len(jobs) - failed} of {len(jobs)} made, {made / 1e6:.1f} MB in {spent:.1f} s: {where}",
        highlight=False,
        soft_wrap=True,
    )
    return failed


def _write(target: Path, data: bytes) -> None:
    """Write a result atomically."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _plan(
    inputs: Sequence[Path], out: str, format_name: str | None
) -> Iterator[tuple[Path, Path, str]]:
    """(source, target, format) for each picture.

    Raises:
        ValueError: an input is missing or a folder is empty, two results share a name, or OUT does
            not fit.
    """
    output = Path(out)
    into_folder = (
        out.endswith(("/", os.sep)) or len(inputs) > 1 or inputs[0].is_dir() or output.is_dir()
    )
    if into_folder and output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; several pictures need a folder")
    if not into_folder and format_name is None and output.suffix.lower() not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise ValueError(f"{output} does not say a format; end it in one of {known}, or in a slash")
    planned = list(_results(inputs, output, format_name, into_folder=into_folder))
    shared = Counter(target for _, _, target, _ in planned)
    taken: dict[Path, Path] = {}
    for source, kept, usual, chosen in planned:
        target = usual
        if into_folder and shared[usual] > 1:  # such as a.jpg beside a.png
            target = output / kept.with_name(f"{kept.name}{usual.suffix}")
        if target in taken:
            raise ValueError(f"{taken[target]} and {source} would both become {target}")
        if target.resolve() == source.resolve():
            raise ValueError(f"{source} would overwrite itself; give another folder")
        taken[target] = source
        yield source, target, chosen


def _results(
    inputs: Sequence[Path], output: Path, format_name: str | None, *, into_folder: bool
) -> Iterator[tuple[Path, Path, Path, str]]:
    """Each picture, its name inside its folder, the usual name of its result, and the format."""
    for place in inputs:
        if not place.exists():
            raise ValueError(f"there is no {place}")
        files = _pictures(place) if place.is_dir() else [place]
        if not files:
            raise ValueError(f"there is no picture in {place}")
        for source in files:
            if into_folder:
                chosen = _own_format(source) if format_name == "same" else format_name or "png"
                name = source.relative_to(place) if place.is_dir() else Path(source.name)
                kept = name
                if format_name != "same" or _FORMATS.get(kept.suffix.lower()) != chosen:
                    kept = kept.with_suffix(f".{'jpg' if chosen == 'jpeg' else chosen}")
                yield source, name, output / kept, chosen
            else:
                by_name = _FORMATS.get(output.suffix.lower(), "png")
                chosen = _own_format(source) if format_name == "same" else format_name or by_name
                yield source, Path(source.name), output, chosen


def _check_formats(names: set[str]) -> None:
    """Check that the libraries are installed before the work starts.

    Raises:
        ConfigurationInvalid: a format cannot be written.
    """
    from workers.contract.errors import ConfigurationInvalid
    from workers.contract.images.formats import EXTRA_FORMATS
    from workers.pictures.extras import installed

    missing = sorted(names & {name.value for name in set(EXTRA_FORMATS) - set(installed())})
    if missing:
        raise ConfigurationInvalid(f"the library that writes {missing[0]} is not installed")


def _own_format(source: Path) -> str:
    """The format of a picture, detected from the contents, or png; unreadable files fail later."""
    from workers.contract.errors import GDSRError
    from workers.contract.images.formats import same_format
    from workers.contract.images.headers import read_header

    try:
        with source.open("rb") as file:
            return same_format(read_header(file).format)
    except (GDSRError, OSError):
        return "png"


def _pictures(folder: Path) -> list[Path]:
    """Those in it, at any depth, without what macOS puts beside each on foreign disks."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("._")
    )


def _settings(model: str | None) -> tuple["WorkerSettings", str]:
    """The settings with one device and one checkpoint, and that device."""
    from workers.contract.errors import ConfigurationInvalid
    from workers.contract.settings import WorkerSettings
    from workers.engine.checkpoints import checkpoint_files, default_model
    from workers.host.programs import cuda_devices

    settings = WorkerSettings.load()
    device = (settings.devices or cuda_devices() or ("cpu",))[0]
    known = {path.stem: path for path in checkpoint_files(settings.checkpoints)}
    if model is None:
        name = default_model(settings.default_model, list(known))
        chosen = known[name]
    elif model.endswith(".safetensors"):
        chosen = Path(model)
    elif model in known:
        chosen = known[model]
    else:
        raise ConfigurationInvalid(f"there is no model {model}; available: {', '.join(known)}")
    update = {"checkpoints": (chosen,), "default_model": chosen.stem}
    return settings.model_copy(update=update), device


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Options for the choices of the service, with the same names."""
    from workers.contract.images.options import PictureChoices

    for name, field in PictureChoices.model_fields.items():
        described = " ".join((field.description or "").split()).replace("%", "%%")
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, metavar="X", help=described, default=argparse.SUPPRESS)


def _choices(arguments: argparse.Namespace) -> "PictureChoices":
    """Validate the options.

    Raises:
        ConfigurationInvalid: the value of an option is invalid.
    """
    from pydantic import ValidationError

    from workers.contract.errors import ConfigurationInvalid
    from workers.contract.faults import in_words
    from workers.contract.images.options import PictureChoices

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        return PictureChoices.model_validate(given)
    except ValidationError as invalid:
        faults = (f"--{fault['loc'][0]}: {in_words(fault)}" for fault in invalid.errors())
        raise ConfigurationInvalid("; ".join(faults)) from None


def _trade_off(text: str) -> float:
    from workers.contract.queue.jobs import STOPS

    try:
        value = STOPS[text] if text in STOPS else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number from 0 to 1, psnr, fused or gan"
        )
    return value


if __name__ == "__main__":
    sys.exit(main())
