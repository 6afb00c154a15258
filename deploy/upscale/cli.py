"""`gdsr-upscale`: upscales pictures and folders, in this process or on a server."""

import argparse
import sys
import time
from collections.abc import Sequence
from enum import EnumType
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from deploy.upscale.plan import STREAM, Made, Step, last_line, plan_steps, store, tell
from workers.contract.errors import ConfigurationInvalid, GDSRError
from workers.contract.images.formats import EXTRA_FORMATS, ResultFormat
from workers.contract.images.options import PictureChoices
from workers.contract.queue.jobs import UpscaleChoices
from workers.contract.validation_messages import error_message
from workers.engine.checkpoints import checkpoint_files, default_model
from workers.pictures.extras import installed

if TYPE_CHECKING:
    from workers.contract.settings import WorkerSettings


#: The options that are validated as the service does; the others are those of a command.
_CHOICES = ["trade_off", "quality", *PictureChoices.model_fields]


def main() -> int:
    """Exit status 0; 1 after a failure, shown on stderr; 2 for wrong usage; 130 after Ctrl-C."""
    arguments = _parser().parse_args()

    from workers.contract.queue.validation import check_format

    try:
        choices = read_choices(arguments)
        steps = plan_steps(arguments.inputs, arguments.output, arguments.format)
        for name in {step.format for step in steps}:
            check_format(choices, ResultFormat(name))
        started = time.monotonic()
        if arguments.server:
            from deploy.upscale.remote import upscale_remotely

            options = choices.model_dump(mode="json", exclude_unset=True)
            made = upscale_remotely(arguments.server, steps, options | {"model": arguments.model})
        else:
            made = _upscale_locally(arguments, steps, choices)
    except (GDSRError, OSError, ValueError) as invalid:
        sys.stderr.write(f"gdsr-upscale: {invalid}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stderr.write(last_line(steps, made, seconds=time.monotonic() - started) + "\n")
    return int(len(made) < len(steps))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gdsr-upscale",
        description="Enlarge pictures, four times on each side unless a size is given.",
    )
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument(
        "inputs", metavar="IN", nargs="+",
        help=f"pictures and folders; {STREAM} is the standard input",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True,
        help=(
            "a file for one picture; a folder for several, for a folder or if it ends in a slash, "
            f"with the names of the inputs; {STREAM} is the standard output"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=[*(one.value for one in ResultFormat), "same"],
        help=(
            "same: the format of each IN, or png if that cannot be written (default: by the "
            "extension of OUT, else png)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--server", metavar="URL",
        help=(
            "upscale on this service, with the API key of GDSR_API_KEY if it is set (default: on "
            "this machine)"
        ),
    )  # fmt: skip
    add_picture_options(parser)
    return parser


def _upscale_locally(
    arguments: argparse.Namespace, steps: Sequence[Step], choices: UpscaleChoices
) -> list[Made]:
    """Upscale all pictures; failures are reported and left out."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeRemaining

    from model.process import prepare_process

    check_libraries({step.format for step in steps})
    settings, device = choose_model(arguments.model)
    prepare_process(settings.threads)

    from workers.engine.loading import load_engine
    from workers.engine.local import InProcessEngine
    from workers.pictures.decode import decode
    from workers.tasks.pipeline import enlarge

    console = Console(stderr=True)
    with console.status("loading the network"):
        loaded = load_engine(settings, device)
        engine = InProcessEngine(loaded)
    made: list[Made] = []
    name = TextColumn("{task.description}", markup=False)
    columns = name, BarColumn(), MofNCompleteColumn(), TimeRemaining()
    with Progress(*columns, console=console) as progress:
        for step in steps:
            task = progress.add_task(Path(step.name).name, total=None)
            try:
                source = step.source
                picture = decode(
                    source if isinstance(source, bytes) else source.read_bytes(),
                    max_pixels=settings.max_pixels,
                    frame=choices.frame,
                    icc=choices.icc,
                    truncated=choices.truncated,
                )
                picture, data = enlarge(
                    picture,
                    engine,
                    choices,
                    model=loaded.default_model,
                    format=ResultFormat(step.format),
                    mark=settings.mark,
                    progress=lambda done, tiles, task=task: progress.update(  # type: ignore[misc]
                        task, completed=done, total=tiles
                    ),
                )
                for warning in picture.warnings:
                    tell(console, step, warning)
                store(step.target, data)
                made.append(Made(picture.width, picture.height, len(data)))
            except (GDSRError, OSError, MemoryError) as failure:
                progress.stop_task(task)
                no_room = isinstance(failure, MemoryError) and "there is no memory for it"
                tell(console, step, no_room or failure, style="red")
    return made


def check_libraries(names: set[str]) -> None:
    """Raise ConfigurationInvalid before the work starts if a format cannot be written."""
    missing = sorted(names & {name.value for name in set(EXTRA_FORMATS) - set(installed())})
    if missing:
        raise ConfigurationInvalid(f"the library that writes {missing[0]} is not installed")


def choose_model(model: str | None) -> tuple["WorkerSettings", str]:
    """The settings with one device and one checkpoint, and that device."""
    from workers.contract.settings import WorkerSettings
    from workers.host.programs import cuda_devices

    settings = WorkerSettings.load()
    device = (settings.devices or cuda_devices() or ("cpu",))[0]
    known = {path.stem: path for path in checkpoint_files(settings.checkpoints)}
    if model is None:
        name = default_model(settings.default_model, list(known), device=device)
        chosen = known[name]
    elif model.endswith(".safetensors"):
        chosen = Path(model)
    elif model in known:
        chosen = known[model]
    else:
        raise ConfigurationInvalid(f"there is no model {model}; available: {', '.join(known)}")
    update = {"checkpoints": (chosen,), "default_model": chosen.stem}
    return settings.model_copy(update=update), device


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Options for the model, and for the choices of the service by their names."""
    parser.add_argument(
        "--model", metavar="NAME|FILE",
        help="a shipped model, or a checkpoint (default: GDSR_DEFAULT_MODEL, else paper-real on a "
        "GPU and lite-real on a CPU)",
    )  # fmt: skip
    for name in _CHOICES:
        field = UpscaleChoices.model_fields[name]
        described = " ".join((field.description or "").split()).replace("%", "%%").rstrip(".")
        default = "unset" if field.default is None else str(field.default).lower()
        parser.add_argument(
            f"--{name.replace('_', '-')}", metavar=_values(field.annotation),
            default=argparse.SUPPRESS, help=f"{described} (default: {default})",
        )  # fmt: skip


def _values(kind: object) -> str:
    """The values of an option, as far as they can be listed."""
    if isinstance(kind, EnumType):
        return "|".join(kind)
    return "true|false" if kind in (bool, bool | None) else "X"


def read_choices(arguments: argparse.Namespace) -> UpscaleChoices:
    """Validate the options; ConfigurationInvalid names those with an invalid value."""
    given = {name: value for name, value in vars(arguments).items() if name in _CHOICES}
    try:
        return UpscaleChoices.model_validate(given)
    except ValidationError as invalid:
        errors = (
            f"--{str(error['loc'][0]).replace('_', '-')}: {error_message(error)}"
            for error in invalid.errors()
        )
        raise ConfigurationInvalid("; ".join(errors)) from None


if __name__ == "__main__":
    sys.exit(main())
