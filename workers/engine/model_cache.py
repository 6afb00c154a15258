"""LRU cache of models on an engine's device, of all models or a limited number.

An evicted model keeps the measurements of its first load, speed, precision and library, and is
loaded again from its file on demand.
"""

import gc
import threading
import time
from pathlib import Path

import torch

from model.checkpoint import CheckpointInvalid, load_checkpoint, read_header
from model.gdsr import GDSR
from model.inference.forward import Forward, NotFinite, prepare
from workers.contract.errors import ModelNotLoaded
from workers.engine.out_of_memory import is_out_of_memory

#: A model stays for at least this multiple of its loading time before it is evicted.
_STAYS = 9


class ModelCache:
    """The models on one device, in LRU order, the most recently used last."""

    def __init__(self, bound: int | None) -> None:
        """`bound`: maximum number of models; None: unlimited."""
        self.loads = 0
        """Number of reloads after an eviction."""
        self._bound = bound
        self._recent: dict[CachedModel, None] = {}
        self._lock = threading.Lock()  # a reload removes models while the compute thread uses them
        self._settled = 0.0

    @property
    def settling(self) -> bool:
        """Whether a model was loaded so recently that jobs for the models on the device go
        first.
        """
        return time.monotonic() < self._settled

    def make_room(self) -> None:
        """Evict the least recently used models before another one is loaded."""
        if self._bound is not None:
            self._keep(self._bound - 1)

    def used(self, cached_model: "CachedModel") -> None:
        """Mark a model as most recently used; evicts others beyond the bound."""
        with self._lock:
            self._recent.pop(cached_model, None)
            if not cached_model.replaced:
                self._recent[cached_model] = None
        if self._bound is not None:
            self._keep(self._bound)

    def loaded_again(self, *, seconds: float) -> None:
        """Count a reload, and let the model stay in proportion to its loading time."""
        self.loads += 1
        self._settled = time.monotonic() + _STAYS * seconds

    def forget(self, cached_model: "CachedModel") -> None:
        """Remove a model that a checkpoint reload replaced; running jobs keep it."""
        with self._lock:
            cached_model.replaced = True
            self._recent.pop(cached_model, None)

    def _keep(self, count: int) -> None:
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
        forward: Forward,
        *,
        path: Path,
        sha256: str,
        tile: int,
        among: ModelCache,
        cache: Path | None = None,
    ) -> None:
        """`forward` was prepared for tiles of `tile` pixels from the file with this SHA-256.

        `cache` keeps compiled kernels, as in `prepare`.
        """
        self.forward: Forward | None = forward
        self.replaced = False
        self._path, self._sha256, self._tile, self._among = path, sha256, tile, among
        self._cache = cache
        self._device, self._precision = forward.device, forward.precision
        self._backend = forward.backend

    def ready(self) -> Forward:
        """The network, loaded again if it was evicted; only for the compute thread.

        Raises:
            ModelNotLoaded: the file has changed, or the device has not enough memory.
        """
        if self.forward is None:
            began = time.perf_counter()
            generator = self._read()
            self._among.make_room()
            self.forward = self._prepared(generator)
            self._among.loaded_again(seconds=time.perf_counter() - began)
        self._among.used(self)
        return self.forward

    def release(self) -> None:
        """Release cached device memory."""
        if self.forward is not None:
            self.forward.release()

    def _read(self) -> GDSR:
        try:
            generator = load_checkpoint(self._path).generator
            changed = read_header(self._path).sha256 != self._sha256
        except (CheckpointInvalid, OSError) as failure:
            reason = (failure.strerror if isinstance(failure, OSError) else None) or str(failure)
            raise self._not_loaded(f"its file cannot be read ({reason})") from failure
        if changed:
            raise self._not_loaded("its file has changed")
        return generator

    def _prepared(self, generator: GDSR) -> Forward:
        try:
            return prepare(
                generator,
                device=self._device,
                precision=self._precision,
                tile=self._tile,
                backend=self._backend,
                cache=self._cache,
            )
        except NotFinite as failure:
            raise self._not_loaded(str(failure)) from failure
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
        raise ModelNotLoaded(
            name=self._path.stem, reason="the device has not enough memory; lower GDSR_MAX_MODELS"
        )

    def _not_loaded(self, why: str) -> ModelNotLoaded:
        remedy = "an operator has to fix it and request a reload (POST /admin/reload)"
        return ModelNotLoaded(name=self._path.stem, reason=f"{why}; {remedy}")
