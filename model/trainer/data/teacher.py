"""The cache of a teacher's outputs, made once and read by distillation.

The cache is a folder. `cache.json` says how its contents were made. Shard `NNNNN` is three arrays
of bytes in NumPy's format, K pictures each:

- `NNNNN.input.npy`, (K, S, S, 3): small pictures, degraded;
- `NNNNN.photograph.npy`, (K, 4S, 4S, 3): the photographs that they were made from;
- `NNNNN.teacher.npy`, (K, 4S, 4S, 3): the teacher's outputs for the small pictures.

A shard without its third array is unfinished: the next run makes it. So another program can be
the teacher: a run with an empty `teacher.file` writes the first two, and that program the third.

A teacher's colours and shades may be off. So its low frequencies, below a Gaussian of 8 pixels,
are replaced by those of the photograph before a picture is kept.

Shapes: K pictures, S x S low-resolution pixels. Network images are RGB in [0, 1].
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from model.checkpoint import CheckpointInvalid, check_finite, load_checkpoint, read_header
from model.esrgan import load_esrgan
from model.files import write_atomically
from model.gdsr import SCALE
from model.resize import to_bytes
from model.trainer.config import SHARD, Data, Teacher, TrainConfig
from model.trainer.data.batches import Batch, Batches
from model.trainer.data.patterns import replace_with_patterns
from model.trainer.data.photographs import Photographs, turned
from model.trainer.errors import TrainingError, reading, writing
from model.trainer.parallel import Processes
from model.trainer.precision import autocast

SETTINGS = "cache.json"
_FORMAT = 1
_BLUR = 8.0  # pixels
_KINDS = {"input": 1, "photograph": SCALE, "teacher": SCALE}  # arrays, and how large they are
Network = Callable[[Tensor], Tensor]


def make_cache(
    config: TrainConfig,
    teacher: Teacher,
    folder: Path,
    photographs: Photographs,
    *,
    processes: Processes,
    quiet: bool,
) -> None:
    """Create the missing shards in `folder`, each process its part of them.

    Raises:
        TrainingError: the folder was made with another teacher or other settings, or lacks outputs
            that another program has to make; the teacher cannot be read, or has another
            architecture; or there is no space for a shard, and earlier shards stay.
    """
    _check_settings(folder, _settings(config, teacher, photographs), first=processes.first)
    shards = -(-teacher.pictures // SHARD)
    missing = [
        shard for shard in range(shards) if not shard_file(folder, shard, "teacher").exists()
    ]
    if not missing:
        return
    network = None
    if teacher.file:
        network = load_teacher(Path(teacher.file), processes.device, output=teacher.output)
    batches = Batches(
        photographs,
        config.data_of_cache,
        degradation=config.degradation,
        seed=config.run.seed,
        processes=replace(processes, rank=0, count=1),  # a process makes whole shards
    )
    console = Console(stderr=True)
    for shard in track(
        missing[processes.rank :: processes.count],
        description=f"teacher's outputs, {SHARD} at a time",
        console=console,
        disable=quiet or not processes.first,
    ):
        batch = batches.at(shard)
        inputs, targets = _bytes(batch.lr), _bytes(batch.hr)
        _write(folder, shard, "input", inputs)
        _write(folder, shard, "photograph", targets)
        if network:
            outputs = _teacher_outputs(network, inputs, targets, processes.device)
            _write(folder, shard, "teacher", outputs)
    if network is None:
        raise TrainingError(
            f"{len(missing)} of {shards} teacher arrays are missing in {folder}: set a "
            "teacher (teacher.file), or let another program write NNNNN.teacher.npy for "
            "each NNNNN.input.npy, and start again"
        )


def shard_file(folder: Path, shard: int, kind: str) -> Path:
    """The path of an array; `kind` is `input`, `photograph` or `teacher`."""
    return folder / f"{shard:05}.{kind}.npy"


def load_teacher(
    path: Path, device: torch.device, *, output: Literal["gan", "psnr"] = "gan"
) -> Network:
    """The teacher in a file: (N, 3, H, W) -> (N, 3, 4H, 4W).

    For a checkpoint of this project the teacher is its `output`; any other file has to be an
    ESRGAN-class generator.

    Raises:
        TrainingError: the file cannot be read, is neither, or has weights that are not finite.
    """
    with reading("teacher.file"):
        ours = _is_checkpoint(path)
        network: nn.Module = load_checkpoint(path).generator if ours else load_esrgan(path)
        check_finite(network)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    return (lambda lr: getattr(network(lr, (output,)), output)) if ours else network


def _is_checkpoint(path: Path) -> bool:
    try:
        read_header(path)
    except CheckpointInvalid:
        return False
    return True


def with_low_frequencies(images: Tensor, photographs: Tensor) -> Tensor:
    """`images` with the low frequencies of `photographs`: (N, 3, 4S, 4S) each."""
    reach = min(int(3 * _BLUR), *(side - 1 for side in images.shape[-2:]))
    offset = torch.arange(-reach, reach + 1, device=images.device)
    bell = torch.exp(-0.5 * (offset / _BLUR) ** 2)
    bell = (bell / bell.sum()).view(1, 1, 1, -1).repeat(3, 1, 1, 1)
    padded = F.pad(photographs - images, (reach,) * 4, mode="reflect")
    rows: Tensor = F.conv2d(padded, bell, groups=3)
    return images + F.conv2d(rows, bell.transpose(2, 3), groups=3)


def _settings(config: TrainConfig, teacher: Teacher, photographs: Photographs) -> dict[str, Any]:
    """All settings that the contents of a cache depend on, except for their number."""
    weights = Path(teacher.file)
    if weights.suffix == ".param":
        weights = weights.with_suffix(".bin")
    with reading("teacher.file"):
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if teacher.file else ""
    if teacher.file and teacher.output != "gan":
        digest += f" {teacher.output}"
    settings = {
        "format": _FORMAT,
        "teacher": digest,
        "seed": config.run.seed,
        "side": teacher.side,
        "photographs": hashlib.sha256("\n".join(photographs.names).encode()).hexdigest()[:16],
        "degradation": asdict(config.degradation) if config.degradation else None,
    }
    return cast("dict[str, Any]", json.loads(json.dumps(settings)))  # tuples become lists


def _check_settings(folder: Path, settings: dict[str, Any], *, first: bool) -> None:
    path = folder / SETTINGS
    if not path.exists():
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            with writing(path):
                write_atomically(path, json.dumps(settings, indent=2).encode())
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name, value in settings.items() if found[name] != value]
    except (KeyError, TypeError, ValueError):
        raise TrainingError(f"{path} does not describe a teacher's cache") from None
    if differing == ["teacher"] and not settings["teacher"]:
        return
    if differing:
        name = "teacher" if "teacher" in differing else differing[0]
        raise TrainingError(
            f"{folder} was made with another {name}: choose another folder (teacher.cache)"
        )


def _teacher_outputs(
    network: Network,
    inputs: NDArray[np.uint8],
    targets: NDArray[np.uint8],
    device: torch.device,
) -> NDArray[np.uint8]:
    """The teacher's outputs for small pictures."""
    outputs = np.empty_like(targets)
    for index, (small, true) in enumerate(zip(inputs, targets, strict=True)):
        lr, hr = (torch.from_numpy(part).permute(2, 0, 1)[None] for part in (small, true))
        lr, hr = lr.to(device).float() / 255, hr.to(device).float() / 255
        with torch.inference_mode(), autocast(device):
            image = network(lr.contiguous(memory_format=torch.channels_last))
        outputs[index] = _bytes(with_low_frequencies(image.float(), hr))[0]
    return outputs


def _bytes(images: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) in [0, 1] -> (N, H, W, 3)."""
    return to_bytes(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _write(folder: Path, shard: int, kind: str, pixels: NDArray[np.uint8]) -> None:
    buffer, path = io.BytesIO(), shard_file(folder, shard, kind)
    np.save(buffer, pixels)
    with writing(path):
        write_atomically(path, buffer.getbuffer())


class CachedBatches:
    """Batches cut from the cache, as a pure function of the seed and the step.

    Shapes: N patches of one process, S x S low-resolution pixels.
    """

    waited = 0.0
    """Seconds that the loop waited for a loader; 0, as there is none."""

    def __init__(
        self,
        folder: Path,
        teacher: Teacher,
        data: Data,
        *,
        seed: int,
        processes: Processes,
    ) -> None:
        """Map all arrays into memory.

        Raises:
            TrainingError: an array is missing, damaged or has the wrong shape.
        """
        self._arrays = [
            tuple(_mapped(folder, shard, kind, teacher.side) for kind in _KINDS)
            for shard in range(-(-teacher.pictures // SHARD))
        ]
        self._places = teacher.side - data.patch + 1
        self._data = data
        self._seed = seed
        self._device = processes.device
        self._part = processes.part(data.batch)

    def at(self, step: int) -> Batch:
        random = np.random.default_rng((self._seed, step))
        side = self._data.patch
        limits = (len(self._arrays), SHARD, self._places, self._places, 8)
        picks = random.integers(limits, size=(self._data.batch, len(limits)))[self._part]
        patches = [
            [
                turned(
                    array[picture, scale * top :, scale * left :][: scale * side, : scale * side],
                    turn,
                )
                for array, scale in zip(self._arrays[shard], _KINDS.values(), strict=True)
            ]
            for shard, picture, top, left, turn in picks.tolist()
        ]
        lr, hr, outputs = (self._tensor(parts) for parts in zip(*patches, strict=True))
        # Teachers invent detail in patterns, so a pattern replaces the teacher's target too.
        replace_with_patterns(lr, (hr, outputs), self._data, self._part, seed=(self._seed, step))
        return Batch(lr=lr, hr=hr, teacher=outputs)

    @contextmanager
    def stream(self, first: int) -> Iterator[Iterator[Batch]]:
        """Batches from the step `first` on, without end."""
        yield map(self.at, count(first))

    def _tensor(self, patches: tuple[NDArray[np.uint8], ...]) -> Tensor:
        """(N, 3, S, S) in [0, 1]."""
        pixels = torch.from_numpy(np.stack(patches)).to(self._device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2).float().div_(255)


def _mapped(folder: Path, shard: int, kind: str, side: int) -> NDArray[np.uint8]:
    path = shard_file(folder, shard, kind)
    shape = (SHARD, _KINDS[kind] * side, _KINDS[kind] * side, 3)
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is damaged or missing ({error}): delete it") from None
    if array.shape != shape or array.dtype != np.uint8:
        raise TrainingError(f"{path} holds {array.dtype} of {array.shape}, not bytes of {shape}")
    return array
