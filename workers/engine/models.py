"""Reloads the checkpoints of a running engine when an operator requests it.

New or changed checkpoints (by SHA-256) are loaded, tested and measured as at startup; if one fails,
the old model stays. Pictures in progress keep their network.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import redis
import torch

from model.checkpoint import Checkpoint, CheckpointInvalid, load_checkpoint, read_header
from model.inference.forward import NotFinite
from model.memory import is_out_of_memory
from workers.contract.errors import ConfigurationInvalid, ModelNotLoaded
from workers.contract.queue import engines, reload
from workers.contract.queue.reload import Change, EngineReport, ModelChange
from workers.contract.settings import WorkerSettings
from workers.engine.checkpoints import default_model, engine_files
from workers.engine.model_cache import CachedModel
from workers.engine.server import EngineServer

#: After this time, models not loaded at startup are settled even between the batches of jobs.
_PATIENCE_SECONDS = 60

Found = TypeVar("Found")

log = logging.getLogger(__name__)


class Models:
    """The models of an engine, and the files that they come from."""

    def __init__(
        self, server: EngineServer, settings: WorkerSettings, device: torch.device, *, followed: int
    ) -> None:
        """`followed`: the latest request before the files were last read."""
        self.followed = followed
        self._server, self._settings, self._device = server, settings, device
        self._patient_until = time.monotonic() + _PATIENCE_SECONDS
        self._tiles_seen = server.tiles_done

    def reload(self) -> EngineReport:
        """Read all files, one after the other; a model is used as soon as it is ready."""
        try:
            settings, device = self._settings, self._device.type
            files = engine_files(settings.checkpoints, wanted=settings.default_model, device=device)
            found = [path for path in files if path.exists()]
            if not found:
                raise ConfigurationInvalid("no checkpoint is left, so all models stay")
            names = {path.stem for path in found}
            gone = [name for name in self._server.loaded.forwards if name not in names]
            changes = [*map(self._reload_file, found), *map(self._remove, gone)]
        except ConfigurationInvalid as invalid:
            return EngineReport(error=str(invalid))
        except Exception as failure:  # such as a stale network folder, or no memory for a file
            log.exception("the reload was aborted")
            reason = (failure.strerror if isinstance(failure, OSError) else None) or "see the log"
            return EngineReport(error=f"aborted by {type(failure).__name__}: {reason}")
        return EngineReport(models=tuple(changes))

    def settle_next(self) -> bool:
        """Load, test and measure the next model that was not loaded at startup, and try OpenVINO.
        Returns False if there is none, or no room, or the engine has computed since the last call.

        A model that cannot be used stays listed, for an operator to fix; its jobs get the reason.
        """
        loaded = self._server.loaded
        waiting = (
            name
            for name in sorted(loaded.forwards, key=lambda name: name != loaded.default_model)
            if not loaded.forwards[name].settled
            and (loaded.forwards[name].forward is not None or loaded.model_cache.has_room)
        )
        name = next(waiting, None)
        before, self._tiles_seen = self._tiles_seen, self._server.tiles_done
        busy = self._server.waiting_tiles > 0 or self._tiles_seen != before
        if name is None or (busy and time.monotonic() < self._patient_until):
            return False
        try:
            loaded.forwards[name].settle(self._on_compute_thread)
        except ModelNotLoaded as failure:
            log.error("%s", failure)
        except Exception:
            log.exception("model %s was not tried", name)
        return True

    def _on_compute_thread(self, action: Callable[[], Found], /) -> Found:
        """Call an action on the compute thread, between two batches; its exceptions come here."""

        def outcome() -> Future[Found]:
            done: Future[Found] = Future()
            try:
                done.set_result(action())
            except Exception as failure:  # noqa: BLE001 - raised below
                done.set_exception(failure)
            return done

        return self._server.between_batches(outcome).result()

    def _reload_file(self, path: Path) -> ModelChange:
        """Load a file if it is new or has changed."""
        name, before = path.stem, self._sha256(path.stem)
        try:
            if read_header(path).sha256 == before:
                return ModelChange(name=name, change="unchanged", sha256=before)
            checkpoint = load_checkpoint(path)
            if read_header(path).sha256 != checkpoint.sha256:
                raise CheckpointInvalid("it changed while it was read; try again")
            reason = self._server.between_batches(lambda: self._try_checkpoint(checkpoint, path))
            if reason:
                raise CheckpointInvalid(reason)
        except (CheckpointInvalid, OSError) as failure:
            reason = (failure.strerror if isinstance(failure, OSError) else None) or str(failure)
            log.error("checkpoint %s is rejected: %s", path, reason)
            return ModelChange(name=name, change="kept", sha256=before, reason=reason)
        change: Change = "replaced" if before else "loaded"
        log.info("checkpoint %s is %s", path, change)
        return ModelChange(name=name, change=change, sha256=checkpoint.sha256)

    def _try_checkpoint(self, checkpoint: Checkpoint, path: Path) -> str | None:
        """Use a checkpoint if it works, else report why not; an unexpected error ends the engine.

        It is tested while the other models stay loaded, even beyond GDSR_MAX_MODELS: the model that
        it replaces could not be loaded again, as its file is gone.
        """
        try:
            model = CachedModel(
                checkpoint,
                path,
                settings=self._settings,
                device=self._device,
                tile=min(self._server.loaded.tiles),
                model_cache=self._server.loaded.model_cache,
            )
            model.load(checkpoint.generator)
            model.settle()
        except NotFinite as failure:
            return str(failure)
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
            return "not enough memory beside the other models"
        self._set_model(path.stem, model)
        return None

    def _remove(self, name: str) -> ModelChange:
        reason = "its file is gone"
        if name == self._settings.default_model:
            reason += ", and GDSR_DEFAULT_MODEL names it"
        elif len(self._server.loaded.forwards) == 1:
            reason += ", and it is the only one"
        else:
            self._set_model(name, None)
            log.info("model %s is dropped: %s", name, reason)
            return ModelChange(name=name, change="dropped")
        return ModelChange(name=name, change="kept", sha256=self._sha256(name), reason=reason)

    def _set_model(self, name: str, model: CachedModel | None) -> None:
        """Set or remove the model of a name, for new jobs."""
        loaded = self._server.loaded
        forwards = dict(loaded.forwards)
        if name in forwards:
            loaded.model_cache.forget(forwards[name])
        if model is None:
            del forwards[name]
        else:
            forwards[name] = model
            loaded.model_cache.used(model)
        default = default_model(
            self._settings.default_model, list(forwards), device=self._device.type
        )
        self._server.loaded = replace(loaded, forwards=forwards, default_model=default)

    def _sha256(self, name: str) -> str | None:
        """SHA-256 of the checkpoint of a loaded model."""
        model = self._server.loaded.forwards.get(name)
        return None if model is None else model.info.sha256


def follow(
    client: redis.Redis,
    models: Models,
    info: Callable[[], engines.EngineInfo],
    stopped: threading.Event,
) -> None:
    """Process reload requests and settle the remaining models, in a thread, until stopped."""
    away = False
    while not stopped.wait(reload.POLL_INTERVAL.total_seconds()):
        try:
            models.settle_next()
            number = reload.last_request(client)
            away = False
            if number == models.followed:
                continue
            report = models.reload()
            # before the report, so that a reader of the report finds them
            engines.register(client, info())
            reload.report(client, number, info().id, report)
            models.followed = number
        except redis.RedisError as failure:
            if not away:  # logged once
                log.warning("cannot read reload requests, retrying: %s", failure)
            away = True
        except Exception:
            log.exception("cannot follow reload requests, retrying")
