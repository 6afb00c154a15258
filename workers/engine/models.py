"""The checkpoints of an engine that runs, looked at again when an operator asks.

What is new or has changed, by its SHA-256, is loaded, tried and measured as at the start; what
fails leaves what was there. Pictures that have begun keep the network that they began with.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import redis
import torch

from model.checkpoint import Checkpoint, CheckpointInvalid, load_checkpoint, read_header
from model.inference.forward import NotFinite
from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue import engines, reload
from workers.contract.queue.reload import Change, EngineReport, ModelChange
from workers.contract.settings import WorkerSettings
from workers.engine.checkpoints import checkpoint_files, default_model
from workers.engine.loading import LoadedModel, load_model
from workers.engine.out_of_memory import is_out_of_memory
from workers.engine.server import EngineServer

log = logging.getLogger(__name__)


class _NotTaken(Exception):
    """Why a checkpoint cannot be used; what was there stays."""


class Models:
    """What an engine serves with, and the files that it comes from."""

    def __init__(
        self, server: EngineServer, settings: WorkerSettings, device: torch.device, *, followed: int
    ) -> None:
        """`followed` is the newest request before the files were last looked at."""
        self.followed = followed
        self._server, self._settings, self._device = server, settings, device

    def reload(self) -> EngineReport:
        """Look at all files, one after the other; a model serves as soon as it is ready."""
        try:
            found = [path for path in checkpoint_files(self._settings.checkpoints) if path.exists()]
            if not found:
                raise ConfigurationInvalid("no checkpoint is left, so all models stay")
        except ConfigurationInvalid as invalid:
            return EngineReport(error=str(invalid))
        names = {path.stem for path in found}
        gone = [name for name in self._server.loaded.forwards if name not in names]
        changes = [*map(self._look, found), *map(self._drop, gone)]
        return EngineReport(models=tuple(changes))

    def _look(self, path: Path) -> ModelChange:
        """Take a file if it is new or has changed."""
        name, before = path.stem, self._sha256(path.stem)
        try:
            if read_header(path).sha256 == before:
                return ModelChange(name=name, change="unchanged", sha256=before)
            checkpoint = load_checkpoint(path)
            if read_header(path).sha256 != checkpoint.sha256:
                raise _NotTaken("it changed while it was read; ask again")
            reason = self._server.between_batches(lambda: self._take(checkpoint, path))
            if reason:
                raise _NotTaken(reason)
        except (CheckpointInvalid, OSError, _NotTaken) as failure:
            reason = (failure.strerror if isinstance(failure, OSError) else None) or str(failure)
            log.error("checkpoint %s is not taken: %s", path, reason)
            return ModelChange(name=name, change="kept", sha256=before, reason=reason)
        change: Change = "replaced" if before else "loaded"
        log.info("checkpoint %s is %s", path, change)
        return ModelChange(name=name, change=change, sha256=checkpoint.sha256)

    def _take(self, checkpoint: Checkpoint, path: Path) -> str | None:
        """Serve with it if it works, or say why not; anything else that is wrong ends the engine.

        It is tried beside the others, even beyond GDSR_MAX_MODELS: the one that it is to replace
        could not be loaded again, its file being gone.
        """
        try:
            model = load_model(
                checkpoint,
                path,
                settings=self._settings,
                device=self._device,
                residents=self._server.loaded.residents,
            )
        except NotFinite as failure:
            return str(failure)
        except (RuntimeError, MemoryError) as failure:
            if not is_out_of_memory(failure):
                raise
            return "there is no memory for it beside the others"
        self._put(path.stem, model)
        return None

    def _drop(self, name: str) -> ModelChange:
        """Forget a model whose file is gone."""
        reason = "its file is gone"
        if name == self._settings.default_model:
            reason += ", and GDSR_DEFAULT_MODEL names it"
        elif len(self._server.loaded.forwards) == 1:
            reason += ", and it is the only one"
        else:
            self._put(name, None)
            log.info("model %s is dropped: %s", name, reason)
            return ModelChange(name=name, change="dropped")
        return ModelChange(name=name, change="kept", sha256=self._sha256(name), reason=reason)

    def _put(self, name: str, model: LoadedModel | None) -> None:
        """Serve with this model under a name, or with none, from the next job on."""
        loaded = self._server.loaded
        forwards, infos = dict(loaded.forwards), {info.name: info for info in loaded.models}
        if name in forwards:
            loaded.residents.forget(forwards[name])
        if model is None:
            del forwards[name], infos[name]
        else:
            forwards[name], infos[name] = model
            loaded.residents.used(model.forward)
        default = default_model(self._settings.default_model, list(forwards))
        self._server.loaded = replace(
            loaded, forwards=forwards, models=tuple(infos.values()), default_model=default
        )

    def _sha256(self, name: str) -> str | None:
        """Of the checkpoint that a model was loaded from."""
        infos = self._server.loaded.models
        return next((info.sha256 for info in infos if info.name == name), None)


def follow(
    client: redis.Redis,
    models: Models,
    info: Callable[[], engines.EngineInfo],
    stopped: threading.Event,
) -> None:
    """Do what operators ask for until stopped; run in a thread of its own."""
    away = False
    while not stopped.wait(reload.LOOK.total_seconds()):
        try:
            number = reload.last_asked(client)
            away = False
            if number == models.followed:
                continue
            report = models.reload()
            engines.register(client, info())  # first, so that who reads the report finds them
            reload.report(client, number, info().id, report)
            models.followed = number
        except redis.RedisError as failure:
            if not away:  # said once
                log.warning("cannot ask whether to reload, asking on: %s", failure)
            away = True
