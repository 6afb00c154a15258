"""Which networks are on an engine's device: all of them, or as many as were used last.

A model that has made way keeps what was found out of it at the start, its speed and its precision,
and is loaded again from its file when a job wants it.
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

#: How many times as long as it took to load, a network serves before another takes its place.
_STAYS = 9


class ModelCache:
    """The networks on one device, the one that was used last at the end."""

    def __init__(self, bound: int | None) -> None:
        """`bound` is how many there may be; None: any number."""
        self.loads = 0
        """Times that a network was loaded again."""
        self._bound = bound
        self._recent: dict[CachedModel, None] = {}
        self._lock = threading.Lock()  # a reload forgets what the thread that computes uses
        self._settled = 0.0

    @property
    def settling(self) -> bool:
        """Whether a network was loaded so lately that jobs for those that are here go first."""
        return time.monotonic() < self._settled

    def make_room(self) -> None:
        """Before another is loaded, let those go that were not used for the longest time."""
        if self._bound is not None:
            self._keep(self._bound - 1)

    def used(self, cached_model: "CachedModel") -> None:
        """Note that this one is on the device and was used last; beyond the bound others go."""
        with self._lock:
            self._recent.pop(cached_model, None)
            if not cached_model.replaced:
                self._recent[cached_model] = None
        if self._bound is not None:
            self._keep(self._bound)

    def loaded_again(self, *, seconds: float) -> None:
        """Count it, and let it serve in proportion to what it cost."""
        self.loads += 1
        self._settled = time.monotonic() + _STAYS * seconds

    def forget(self, cached_model: "CachedModel") -> None:
        """No longer count one that a reload replaced; jobs that have begun with it keep it."""
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
            gc.collect()  # compiled blocks refer to themselves
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class CachedModel:
    """A model's network, which may be on the device or in its file alone."""

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
        """`forward` was made ready for tiles of `tile` pixels from the file with this SHA-256.

        `cache` keeps what is compiled, as in `prepare`.
        """
        self.forward: Forward | None = forward
        self.replaced = False
        self._path, self._sha256, self._tile, self._among = path, sha256, tile, among
        self._cache = cache
        self._device, self._precision = forward.device, forward.precision

    def ready(self) -> Forward:
        """The network, loaded again if it is not on the device; for the thread that computes.

        Raises:
            ModelNotLoaded: its file is not what it was, or the device has no memory for it.
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
        """Give back device memory that is kept for speed alone."""
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
                cache=self._cache,
            )
        except NotFinite as failure:
            raise self._not_loaded(str(failure)) from failure
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
        raise ModelNotLoaded(
            name=self._path.stem, reason="its device has no memory for it; lower GDSR_MAX_MODELS"
        )

    def _not_loaded(self, why: str) -> ModelNotLoaded:
        remedy = "an operator has to mend it and ask for a reload (POST /admin/reload)"
        return ModelNotLoaded(name=self._path.stem, reason=f"{why}; {remedy}")
