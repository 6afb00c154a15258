"""LRU cache of models on an engine's device, of all models or a limited number.

A model is first loaded, tested and measured at the engine's start, while the engine is idle, or
when a job needs it. An evicted model keeps its measurements, speed, precision and library, and is
loaded again from its file on demand.
"""

import gc
import logging
import math
import operator
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from model.checkpoint import Checkpoint, CheckpointInvalid, load_checkpoint, read_header
from model.gdsr import GDSR, PRESETS, SCALE
from model.inference.forward import (
    Backend,
    Forward,
    NotFinite,
    Precision,
    in_backend,
    measure,
    prepare,
)
from model.inference.trial import Turn
from model.memory import is_out_of_memory
from workers.contract.errors import ModelNotLoaded
from workers.contract.queue.engines import ModelInfo
from workers.contract.settings import WorkerSettings

log = logging.getLogger(__name__)

#: A model stays for at least this multiple of its loading time before it is evicted.
_MIN_STAY = 9
#: The precision of a model before its first load, which chooses one.
PENDING = "pending"


class ModelCache:
    """The models on one device, in LRU order, the most recently used last."""

    def __init__(self, bound: int | None) -> None:
        """`bound`: maximum number of models; None: unlimited."""
        self.loads = 0
        """Number of reloads after an eviction."""
        self._bound = math.inf if bound is None else bound
        self._recent: dict[CachedModel, None] = {}
        self._lock = threading.Lock()  # a reload removes models while the compute thread uses them
        self._resident_first_until = 0.0

    @property
    def resident_first(self) -> bool:
        """True if jobs for resident models go first, as a model was loaded only recently."""
        return time.monotonic() < self._resident_first_until

    @property
    def has_room(self) -> bool:
        """True if another model fits without an eviction."""
        return len(self._recent) < self._bound

    def make_room(self) -> None:
        """Evict the least recently used models before another one is loaded."""
        self._keep(self._bound - 1)

    def used(self, cached_model: "CachedModel") -> None:
        """Mark a model as most recently used; evicts others beyond the bound."""
        with self._lock:
            self._recent.pop(cached_model, None)
            if not cached_model.replaced:
                self._recent[cached_model] = None
        self._keep(self._bound)

    def loaded_again(self, *, seconds: float) -> None:
        """Count a reload, and let the model stay in proportion to its loading time."""
        self.loads += 1
        self._resident_first_until = time.monotonic() + _MIN_STAY * seconds

    def forget(self, cached_model: "CachedModel") -> None:
        """Remove a model that a checkpoint reload replaced; running jobs keep it."""
        with self._lock:
            cached_model.replaced = True
            self._recent.pop(cached_model, None)

    def _keep(self, count: float) -> None:
        gone = False
        with self._lock:
            while len(self._recent) > count:
                oldest = next(iter(self._recent))
                del self._recent[oldest]
                oldest.forward = None
                gone = True
        if gone:
            gc.collect()  # compiled blocks have reference cycles
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class CachedModel:
    """A model that is on the device or only in its file."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        path: Path,
        *,
        settings: WorkerSettings,
        device: torch.device,
        tile: int,
        model_cache: ModelCache,
    ) -> None:
        """The model of a checkpoint, which is read from `path` again after an eviction. It is
        warmed up and measured with tiles of `tile` x `tile` pixels.
        """
        self.info = ModelInfo(
            name=path.stem,
            sha256=checkpoint.sha256,
            preset=next(
                (name for name, size in PRESETS.items() if size == checkpoint.config), "custom"
            ),
            scale=SCALE,
            card=asdict(checkpoint.card),
            precision=PENDING,
            pixels_per_second={},
        )
        self.forward: Forward | None = None
        self.replaced = False
        self.settled = False
        """True if `settle` was called."""
        self._path, self._tile, self._model_cache, self._device = path, tile, model_cache, device
        self._cache = settings.cache_dir
        self._precision: Precision | None = settings.precision
        backend = settings.cpu_backend
        self._backend: Backend | None = None if backend == "auto" else backend

    def ready(self) -> Forward:
        """Return the network, loaded if it is not on the device, and measured the first time. For
        the compute thread only.

        Raises:
            ModelNotLoaded: the file has changed, its output is not finite, or the device has not
                enough memory.
        """
        forward = self.forward
        if forward is None:
            began = time.perf_counter()
            again = self.info.precision != PENDING
            generator = self._read()
            self._model_cache.make_room()
            try:
                forward = self.load(generator)
            except NotFinite as failure:
                raise self._not_loaded(str(failure)) from failure
            except (RuntimeError, MemoryError) as failure:
                if not is_out_of_memory(failure):
                    raise
                reason = "the device has not enough memory; lower GDSR_MAX_MODELS"
                raise ModelNotLoaded(name=self._path.stem, reason=reason) from failure
            if again:
                self._model_cache.loaded_again(seconds=time.perf_counter() - began)
        self._model_cache.used(self)
        return forward

    def load(self, generator: GDSR) -> Forward:
        """Load its network, read from its file, and measure it the first time.

        Raises:
            NotFinite: its output is not finite.
        """
        forward = prepare(
            generator,
            device=self._device,
            precision=self._precision,
            tile=self._tile,
            backend=self._backend or "torch",
            cache=self._cache,
        )
        if self.info.precision == PENDING:
            self._measure(forward)
        self.forward, self._precision = forward, forward.precision
        return forward

    def estimate(self, other: "CachedModel", *, work: float) -> None:
        """Estimate its speed before the first load: it has `work` times the parameters of the
        measured `other`, and so about `work` times its multiplications.
        """
        speeds = other.info.pixels_per_second
        self.info = self.info.model_copy(
            update={"pixels_per_second": {name: rate / work for name, rate in speeds.items()}}
        )

    def settle(self, turn: Turn = operator.call) -> None:
        """Load and measure it if that was not done yet, and try OpenVINO if the settings allow it.

        If the caller is not the compute thread, `turn` has to run each step there.

        Raises:
            ModelNotLoaded: as for `ready`.
        """
        self.settled = True
        by_torch = self.forward or turn(self.ready)
        if self._backend is not None or self._device.type != "cpu":
            return
        try:
            chosen = in_backend(
                by_torch, backend=None, tile=self._tile, cache=self._cache, turn=turn
            )
            turn(partial(self._choose, chosen))
        except (RuntimeError, MemoryError) as failure:
            if not (isinstance(failure, NotFinite) or is_out_of_memory(failure)):
                raise
            log.warning("%s stays with torch, as OpenVINO failed: %s", self.info.name, failure)
            self._backend = "torch"

    def _choose(self, chosen: Forward) -> None:
        if chosen.seconds_by_backend:
            self._measure(chosen)
        if self.forward is not None:  # it may have been evicted between two steps
            self.forward = chosen
        self._backend = chosen.backend

    def _measure(self, forward: Forward) -> None:
        self.info = self.info.model_copy(
            update={
                "precision": forward.precision,
                "compiled": forward.compiled,
                "backend": forward.backend,
                "seconds_by_backend": dict(forward.seconds_by_backend),
                "pixels_per_second": measure(forward, tile=self._tile),
            }
        )

    def release(self) -> None:
        if self.forward is not None:
            self.forward.release()

    def _read(self) -> GDSR:
        try:
            generator = load_checkpoint(self._path).generator
            changed = read_header(self._path).sha256 != self.info.sha256
        except (CheckpointInvalid, OSError) as failure:
            reason = (failure.strerror if isinstance(failure, OSError) else None) or str(failure)
            raise self._not_loaded(f"its file cannot be read ({reason})") from failure
        if changed:
            raise self._not_loaded("its file has changed")
        return generator

    def _not_loaded(self, why: str) -> ModelNotLoaded:
        remedy = "an operator has to fix it and request a reload (POST /admin/reload)"
        return ModelNotLoaded(name=self._path.stem, reason=f"{why}; {remedy}")
