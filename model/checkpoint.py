"""Checkpoints: a generator's weights with its configuration and model card.

A checkpoint is a safetensors file. Its tensors are named as in `model.gdsr`; its metadata, all
strings, holds `format` "gdsr", `format_version`, `scale`, `config` and `card` (both JSON).
Reading is strict and never unpickles; errors are described in one line.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from model.files import write_atomically
from model.gdsr import GDSR, SCALE, GDSRConfig

FORMAT = "gdsr"
FORMAT_VERSION = "1"
SHIPPED = Path(__file__).parent / "checkpoints"
"""Folder of the shipped checkpoints: `paper-real`, `lite-real`, `lite` and `base`."""

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})
_SIZE_LIMIT = 1024  # channels, or RRDBs in a trunk; far above any network that fits a device

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Data set -> output -> metric -> value."""


class CheckpointInvalid(ValueError):
    """The file is not a usable checkpoint, for the reason in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The model card of a checkpoint."""

    name: str
    training: str
    """Training procedure."""
    data: str
    """Training data."""
    scores: Scores
    """As measured by `gdsr-evaluate`."""
    licence: str
    """SPDX identifier."""
    consistency: bool = False
    """True if the service applies back-projection by default, so that results downscale to the
    input. Suitable for networks trained on plain bicubic; with noise and JPEG it would restore the
    artefacts. `scores` are without it.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Configuration and card of a file; `sha256` is that of the whole file, in hexadecimal."""

    config: GDSRConfig
    card: Card
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Header):
    """A header with its generator, in float32."""

    generator: GDSR


def save_checkpoint(path: Path, generator: GDSR, card: Card) -> None:
    """Write a checkpoint atomically; the tensors keep the generator's precision.

    Raises:
        OSError: the file cannot be written.
    """
    _write(path, generator.config, card, generator.state_dict())


def replace_card(path: Path, card: Card) -> None:
    """Replace the card of a checkpoint; its tensors do not change.

    Raises:
        CheckpointInvalid: the file is not a checkpoint, or is truncated.
        OSError: the file cannot be read or written.
    """
    _write(path, read_header(path).config, card, read_tensors(path))


def read_header(path: Path) -> Header:
    """Read configuration and card of a file, without its tensors.

    Raises:
        CheckpointInvalid: the file is not a checkpoint, or is truncated.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with _opened(path) as tensors:
        metadata: Mapping[str, str] = tensors.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise CheckpointInvalid(
            "the file does not say that it is a GDSR checkpoint; "
            "gdsr-import makes one of reference weights"
        )
    version, scale = metadata.get("format_version"), metadata.get("scale")
    if version != FORMAT_VERSION:
        raise CheckpointInvalid(
            f"the format version is {version}; this program reads {FORMAT_VERSION}"
        )
    if scale != str(SCALE):
        raise CheckpointInvalid(f"the scale is {scale}; this program's is {SCALE}")
    return Header(config=_config(metadata), card=_card(metadata), sha256=sha256)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint and build its generator on `device`, in float32.

    Raises:
        CheckpointInvalid: the file is not a checkpoint, is damaged, or does not have exactly the
            tensors of its configuration.
        OSError: the file cannot be read.
    """
    header = read_header(path)
    generator = build_generator(header.config, read_tensors(path))
    return Checkpoint(
        config=header.config,
        card=header.card,
        sha256=header.sha256,
        generator=generator.to(device),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointInvalid: the file has another format, or is truncated.
        OSError: the file cannot be read.
    """
    with _opened(path) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (no iterator)


def build_generator(config: GDSRConfig, state: Mapping[str, Tensor]) -> GDSR:
    """Build a generator with these weights, in float32.

    Raises:
        CheckpointInvalid: a tensor is missing, unexpected, or of another shape or type.
    """
    with torch.device("meta"):  # skips the initialisation of values that are replaced at once
        generator = GDSR(config)
    load_weights(generator, state)
    return generator.eval()


def load_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network that was built on the device `meta` these weights, in float32.

    Raises:
        CheckpointInvalid: a tensor is missing, unexpected, or of another shape or type.
    """
    expected = network.state_dict()
    if missing := expected.keys() - state.keys():
        raise CheckpointInvalid(f"{_listed(missing)} missing")
    if unexpected := state.keys() - expected.keys():
        raise CheckpointInvalid(f"{_listed(unexpected)} not part of this network")
    for name, tensor in state.items():
        if tensor.dtype not in _DTYPES:
            raise CheckpointInvalid(
                f"tensor {name} is {tensor.dtype}; float16, bfloat16 and float32 are read"
            )
        if tensor.shape != expected[name].shape:
            raise CheckpointInvalid(
                f"tensor {name} has the shape {list(tensor.shape)}; "
                f"the network calls for {list(expected[name].shape)}"
            )
    single = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    network.load_state_dict(single, assign=True)


def check_finite(network: nn.Module) -> None:
    """Check the weights of a network.

    Raises:
        CheckpointInvalid: a value is not finite.
    """
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointInvalid(f"tensor {name} has values that are not finite")


def _write(path: Path, config: GDSRConfig, card: Card, state: Mapping[str, Tensor]) -> None:
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "scale": str(SCALE),
        "config": json.dumps(asdict(config)),
        "card": json.dumps(asdict(card)),
    }
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def _opened(path: Path) -> safetensors.safe_open:
    """Open the file with safetensors, which checks that it is complete."""
    try:
        return safetensors.safe_open(path, framework="pt")
    except safetensors.SafetensorError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointInvalid(f"this is not a whole safetensors file: {reason}") from None


def _config(metadata: Mapping[str, str]) -> GDSRConfig:
    values = _object(metadata, "config", GDSRConfig)
    for name, value in values.items():
        if type(value) is not int or not 1 <= value <= _SIZE_LIMIT:
            raise CheckpointInvalid(f"config: {name} is {value!r}; it must be 1 to {_SIZE_LIMIT:,}")
    return GDSRConfig(**values)


def _card(metadata: Mapping[str, str]) -> Card:
    values = _object(metadata, "card", Card)
    for name, value in values.items():
        kind, word = (bool, "true or false") if name == "consistency" else (str, "text")
        if name != "scores" and not isinstance(value, kind):
            raise CheckpointInvalid(f"card: {name} is {value!r}; it must be {word}")
    try:
        scores = {
            data: {
                output: {metric: float(value) for metric, value in metrics.items()}
                for output, metrics in outputs.items()
            }
            for data, outputs in values.pop("scores").items()
        }
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise CheckpointInvalid("card: scores are data set -> output -> metric -> value") from None
    return Card(scores=scores, **values)


def _object(metadata: Mapping[str, str], part: str, kind: type) -> dict[str, Any]:
    """The JSON object under `part`, with the fields of the dataclass `kind`; fields with a default
    may be missing, as in older files.
    """
    if part not in metadata:
        raise CheckpointInvalid(f"the metadata has no {part}")
    try:
        values = json.loads(metadata[part])
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise CheckpointInvalid(f"{part}: not JSON") from None
    expected = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not isinstance(values, dict) or not needed <= values.keys() <= expected:
        raise CheckpointInvalid(f"{part}: must have exactly {', '.join(sorted(needed))}")
    return values


def _listed(names: set[str]) -> str:
    first = min(names)
    return f"tensor {first} is" if len(names) == 1 else f"{len(names)} tensors ({first}, ...) are"
