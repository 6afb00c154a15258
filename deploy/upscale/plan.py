"""Plans the result file and format of each picture for `gdsr-upscale`, and stores the results."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from model.files import write_atomically
from workers.contract.errors import GDSRError
from workers.contract.images.formats import ResultFormat, extension, same_format
from workers.contract.images.headers import read_header
from workers.contract.images.names import UniqueNames

if TYPE_CHECKING:
    from rich.console import Console

#: Name of the standard input, and of the standard output.
STREAM = "-"
_FORMATS = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".jfif": "jpeg", ".webp": "webp",
    ".avif": "avif", ".tif": "tiff", ".tiff": "tiff", ".jxl": "jxl",
}  # fmt: skip
#: File name extensions that a folder is searched for; a named file may have any.
_SUFFIXES = {*_FORMATS, ".bmp", ".gif", ".heic", ".heif"}


class Step(NamedTuple):
    """One picture and its result."""

    name: str
    path: Path
    """Relative to the folder that was given, or the name alone."""
    source: Path | bytes
    """A file, or the contents of the standard input."""
    target: Path | None
    """None: the standard output."""
    format: str


def format_by_name(name: str) -> str | None:
    """The format by the extension of a file name; None if unknown."""
    return _FORMATS.get(Path(name).suffix.lower())


def plan_steps(inputs: Sequence[str], output: str, format_name: str | None) -> list[Step]:
    """Plan all results, without writing anything.

    Raises:
        ValueError: an input is missing, a folder has no picture, a result would overwrite an
            input or a device, or OUTPUT does not fit.
        OSError: the standard input cannot be read.
    """
    several = len(inputs) > 1 or Path(inputs[0]).is_dir()
    into_folder = output != STREAM and (
        several or output.endswith(("/", os.sep)) or Path(output).is_dir()
    )
    _check_output(output, format_name, several=several, into_folder=into_folder)
    by_name = None if into_folder else format_by_name(output)
    found = list(_found(inputs, format_name, by_name or "png"))
    if into_folder:
        steps = list(_into_folder(found, Path(output), keep_endings=format_name == "same"))
    else:
        target = None if output == STREAM else Path(output)
        steps = [step._replace(target=target) for step in found]
        if by_name and steps[0].format != by_name:
            raise ValueError(f"{output} does not end as a {steps[0].format} file")
    _check_overwriting(steps)
    return steps


def _check_output(
    output: str, format_name: str | None, *, several: bool, into_folder: bool
) -> None:
    known = format_by_name(output) is not None
    if output == STREAM:
        if several:
            raise ValueError("several pictures need a folder, not the standard output")
        if sys.stdout.isatty():
            raise ValueError("a picture is not shown on a terminal; write `-o - > FILE`")
    elif into_folder:
        is_file = Path(output).exists() and not Path(output).is_dir()
        if is_file or (known and not Path(output).is_dir() and not output.endswith("/")):
            raise ValueError(f"{output} is the name of a file; several pictures need a folder")
    elif format_name is None and not known:
        raise ValueError(
            f"{output} has no known extension: {', '.join(_FORMATS)}; a folder ends in a slash"
        )


def _found(inputs: Sequence[str], format_name: str | None, usual: str) -> Iterator[Step]:
    """The step of every picture, without a target."""

    def one(name: str, source: Path | bytes, path: Path) -> Step:
        return Step(name, path, source, None, _format(source, format_name, usual))

    if inputs.count(STREAM) > 1:
        raise ValueError("the standard input holds one picture")
    for argument in inputs:
        folder = Path(argument)
        if argument == STREAM:
            yield one("standard input", sys.stdin.buffer.read(), Path("stdin"))
        elif argument.startswith(("http://", "https://")):
            raise ValueError(f"{argument}: URLs are not fetched; download the picture first")
        elif not folder.exists():
            raise ValueError(f"there is no {folder}")
        elif not folder.is_dir():
            yield one(str(folder), folder, Path(folder.name))
        elif files := _pictures(folder):
            yield from (one(str(file), file, file.relative_to(folder)) for file in files)
        else:
            raise ValueError(f"there is no picture in {folder}")


def _into_folder(found: Sequence[Step], folder: Path, *, keep_endings: bool) -> Iterator[Step]:
    """Name each result as its input, with the extension of its format. If two would share a name,
    such as `a.jpg` and `a.png`, keep the old extension too; the last resort is a number.
    """
    results = [_ended(step.path, step.format, keep_ending=keep_endings) for step in found]
    shared = Counter(str(result).casefold() for result in results)
    alike = Counter(str(step.path).casefold() for step in found)
    names = UniqueNames()
    for step, result in zip(found, results, strict=True):
        path = step.path
        keeps_both = shared[str(result).casefold()] > 1 and alike[str(path).casefold()] == 1
        wanted = path.with_name(f"{path.name}{result.suffix}") if keeps_both else result
        yield step._replace(target=folder / names.add(wanted.as_posix()))


def _ended(path: Path, format_name: str, *, keep_ending: bool) -> Path:
    if keep_ending and format_by_name(path.name) == format_name:
        return path
    return path.with_suffix(f".{extension(ResultFormat(format_name))}")


def _check_overwriting(steps: Sequence[Step]) -> None:
    """Compare files, not names: `A.png` and `a.png` may be the same file. A file would also replace
    a device or a pipe.
    """
    found = (step.source.stat() for step in steps if isinstance(step.source, Path))
    sources = {(file.st_dev, file.st_ino) for file in found}
    for step in steps:
        if step.target is None or not step.target.exists():
            continue
        if not step.target.is_file():
            raise ValueError(f"{step.target} is not a regular file; use `-o - > {step.target}`")
        file = step.target.stat()
        if (file.st_dev, file.st_ino) in sources:
            raise ValueError(f"{step.target} would overwrite an input; give another folder or name")


def _format(source: Path | bytes, format_name: str | None, usual: str) -> str:
    """The format of a result. `same` is read from the header, or png if the header is invalid:
    decoding reports the error later.
    """
    if format_name != "same":
        return format_name or usual
    try:
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            return same_format(read_header(file).format)
    except (GDSRError, OSError):
        return "png"


def is_picture(path: PurePath) -> bool:
    """True if the name is that of a picture, not of a `._` file of macOS on other file systems."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith("._")


def _pictures(folder: Path) -> list[Path]:
    """Pictures in a folder, at any depth."""
    return sorted(path for path in folder.rglob("*") if is_picture(path) and path.is_file())


class Made(NamedTuple):
    """A result that was stored."""

    width: int
    height: int
    size: int
    """In bytes."""


def store(target: Path | None, data: bytes) -> None:
    """Write a file atomically, or to the standard output."""
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, data)


def tell(console: "Console", step: Step, message: object, *, style: str = "") -> None:
    """Print a line about a picture, whose name may contain brackets."""
    text = f"{step.name}: {message}"
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def last_line(steps: Sequence[Step], made: Sequence[Made], *, seconds: float) -> str:
    """The last line: number of results, folder, size and time."""
    if not made:
        return f"made none of {len(steps):,} in {seconds:,.1f} s"
    megabytes = sum(one.size for one in made) / 1e6
    spent = f"{megabytes:,.{1 if megabytes >= 1 else 3}f} MB in {seconds:,.1f} s"
    if len(steps) == len(made) == 1:
        where = steps[0].target or "the standard output"
        return f"made {where}: {made[0].width:,} x {made[0].height:,}, {spent}"
    folders = [step.target.parent for step in steps if step.target]
    where = os.path.commonpath(folders) or "this folder"
    return f"made {len(made):,} of {len(steps):,} in {where}: {spent}"
