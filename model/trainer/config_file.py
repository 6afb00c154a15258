"""Reads a configuration from a preset's TOML, from overrides, and from the folder of a run.

Strict: unknown keys, missing keys and wrong types are errors that name the key.
"""

import json
import math
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from model.files import write_atomically
from model.trainer.config import TrainConfig
from model.trainer.errors import ConfigInvalid, writing
from model.trainer.validation import MIN_SIDE

PRESETS = Path(__file__).parent / "presets"
_PATHS = (
    "data.hr_dir", "data.val_dir", "teacher.file", "teacher.cache", "losses.perceptual.file",
    "losses.dists.folder",
)  # fmt: skip
Built = TypeVar("Built")


class _Text(str):
    """A value from the command line, whose type depends on its field."""

    __slots__ = ()


def preset_names() -> list[str]:
    """The names of the shipped presets."""
    return sorted(_shipped())


def read_preset(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in the file `name`, or in the shipped preset of that name.

    A preset that starts with `extends` gets all other values from the shipped preset of that name.
    An override has the form `table.key=value`.

    Raises:
        ConfigInvalid: for the reason in the message.
    """
    path = Path(name)
    values = _read(path if path.is_file() else _preset(name))
    for override in overrides:
        _override(values, override)
    return _checked(_build(TrainConfig, values, ""))


def read_config(path: Path) -> TrainConfig:
    """The configuration that `write_config` wrote.

    Raises:
        ConfigInvalid: for the reason in the message.
        OSError: the file cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigInvalid(f"{path}: {error}") from None
    return _checked(_build(TrainConfig, values, ""))


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths, so that it is valid in any working directory."""
    values = asdict(config)
    for key in _PATHS:
        *tables, name = key.split(".")
        table: Any = values
        for part in tables:
            table = (table or {}).get(part)
        if table and table[name]:
            table[name] = str(Path(table[name]).resolve())
    return _build(TrainConfig, values, "")


def write_config(path: Path, config: TrainConfig) -> None:
    """Store a configuration in the folder of a run.

    Raises:
        TrainingError: the file cannot be written; the previous one stays.
    """
    with writing(path):
        write_atomically(path, (json.dumps(asdict(config), indent=2) + "\n").encode())


def _shipped() -> dict[str, Path]:
    """The files of the shipped presets by name, in a folder for each network."""
    return {path.stem: path for path in PRESETS.glob("*/*.toml")}


def _preset(name: str) -> Path:
    shipped = _shipped()
    if name not in shipped:
        raise ConfigInvalid(f"no preset {name}; there are {', '.join(sorted(shipped))}")
    return shipped[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{path}: {error}") from None
    base = values.pop("extends", None)
    return _merged(_read(_preset(base)), values) if base is not None else values


def _merged(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of `base` with the values of `own`."""
    both = dict(base)
    for key, value in own.items():
        tables = isinstance(value, dict) and isinstance(base.get(key), dict)
        both[key] = _merged(base[key], value) if tables else value
    return both


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, name = key.strip().split(".")
    if not equals or not name:
        raise ConfigInvalid(f"--set {override}: expected table.key=value")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigInvalid(f"--set {override}: {table} is not a table")
    values[name] = _Text(text.strip())


def _build(kind: type[Built], values: Any, name: str) -> Built:
    if not isinstance(values, Mapping):
        raise ConfigInvalid(f"{name or 'the preset'} is {values!r}; it must be a table")
    prefix = f"{name}." if name else ""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    if unknown := values.keys() - known.keys():
        raise ConfigInvalid(f"{prefix}{min(unknown)} is unknown; known are {', '.join(known)}")
    hints = get_type_hints(kind)
    built = {}
    for key, field in known.items():
        if key in values:
            built[key] = _value(hints[key], values[key], prefix + key)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigInvalid(f"{prefix}{key} is missing")
    return kind(**built)


def _value(kind: Any, value: Any, name: str) -> Any:
    """Convert `value` to the field type `kind`."""
    if isinstance(value, _Text):
        value = str(value) if kind is str or get_origin(kind) is Literal else _parsed(value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # a type or None
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _value(inner, value, name)
    if is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, name)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(
                _value(inner, part, name) for inner, part in zip(kinds, value, strict=True)
            )
    if origin is dict and isinstance(value, Mapping):
        return {key: _value(arguments[1], part, f"{name}.{key}") for key, part in value.items()}
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise ConfigInvalid(f"{name} is {value!r}; it must be {_described(kind)}")


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return str(text)


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        length = len(get_args(kind))
        return "a list of numbers" if get_args(kind)[-1] is ... else f"a list of {length} numbers"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(
        kind, "a table"
    )


def _checked(config: TrainConfig) -> TrainConfig:
    for problem in _problems(config):
        raise ConfigInvalid(problem)
    return config


def _problems(config: TrainConfig) -> Iterator[str]:
    """The problems of values that are of the right type."""
    data, losses, run, teacher = config.data, config.losses, config.run, config.teacher
    positive = {
        **{f"generator.size.{name}": value for name, value in asdict(config.network).items()},
        "run.steps": run.steps,
        "run.save_every": run.save_every,
        "run.log_every": run.log_every,
        "generator.init_scale": config.generator.init_scale,
        "teacher.pictures": teacher.pictures if teacher else 1,
        "data.patch": data.patch,
        "data.batch": data.batch,
        "validation.every": config.validation.every,
        "validation.pictures": config.validation.pictures,
        "optimiser.learning_rate": config.optimiser.learning_rate,
    }
    if losses.adversarial:
        positive["losses.adversarial.learning_rate"] = losses.adversarial.learning_rate
        positive["losses.adversarial.features"] = losses.adversarial.features
    for name, value in positive.items():
        if value <= 0:
            yield f"{name} is {value}; it must be above 0"
    crop = config.validation.crop
    if crop and crop < MIN_SIDE:
        yield f"validation.crop is {crop}; it must be 0 or at least {MIN_SIDE}"
    for name, value in _numbers(asdict(config)):
        if value < 0:
            yield f"{name} is {value}; it must not be below 0"
    optimiser = config.optimiser
    for name, value in (("betas", max(optimiser.betas)), ("ema", optimiser.ema)):
        if value >= 1:
            yield f"optimiser.{name} is {value}; it must be below 1"
    for name, value, most in (
        ("run.seed", run.seed, 2**63 - 1),
        ("data.patterns", data.patterns, 1),
        ("validation.jpeg_quality", config.validation.jpeg_quality, 100),
    ):
        if value > most:
            yield f"{name} is {value}; it must not be above {most}"
    if 2 * losses.margin >= data.patch:
        yield f"losses.margin is {losses.margin}; that leaves nothing of a patch of {data.patch}"
    if data.mirror > data.patch:
        yield f"data.mirror is {data.mirror}, more than a patch of {data.patch}"
    if not losses.outputs:
        yield "losses: no output has a weight"
    train = config.generator.train
    for kept in {"all": (), "lf": ("gan",), "hf": ("psnr",), "mask": ("psnr", "gan")}[train]:
        if kept in losses.outputs:
            yield f"losses: {kept} has a weight, but generator.train={train!r} freezes it"
    if config.degradation and not sum(asdict(config.degradation.shares).values()) > 0:
        yield "degradation.shares: at least one must be above 0"
    targets = [term.target for term in (losses.perceptual, losses.dists) if term]
    if not teacher and (losses.distill or "teacher" in targets):
        yield "losses: one needs a teacher, and there is no table teacher"
    if teacher and teacher.side < data.patch:
        yield f"teacher.side is {teacher.side}, smaller than a patch of {data.patch}"
    if losses.perceptual and not losses.perceptual.taps:
        yield "losses.perceptual.taps is empty"
    seen = 4 * (data.patch - 2 * losses.margin)
    for name, term, least in (("colour", losses.colour, 32), ("perceptual", losses.perceptual, 16)):
        if term and seen < least:
            yield f"losses.{name} needs {least} pixels a side; a patch without margins has {seen}"
    if losses.adversarial:
        if not losses.adversarial.weights.outputs:
            yield "losses.adversarial: no output has a weight"
        kind = losses.adversarial.discriminator
        multiple = 32 if kind == "vgg" else 8
        if seen % multiple:
            yield (
                f"the {kind} discriminator needs sides that are a multiple of {multiple}; "
                f"a patch of {data.patch} without margins of {losses.margin} gives {seen}"
            )


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of nested tables and lists, with their names."""
    if isinstance(values, Mapping):
        for key, part in values.items():
            yield from _numbers(part, f"{name}.{key}".removeprefix("."))
    elif isinstance(values, list | tuple):
        for part in values:
            yield from _numbers(part, name)
    elif isinstance(values, int | float):
        yield name, values
