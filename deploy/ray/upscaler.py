"""The actor of `gdsr-bulk`: reads pictures from one store and writes results to another."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.ray.decoder import Decoder, PictureFailed
from workers.contract.errors import ConfigurationInvalid, GDSRError, UploadTooLarge
from workers.contract.images.formats import ResultFormat, extension
from workers.contract.queue.jobs import UpscaleChoices
from workers.contract.settings import WorkerSettings
from workers.tasks.pipeline import enlarge

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Parameters common to all pictures of a run."""

    source: str
    target: str
    """Folders, or `s3://BUCKET/PREFIX`."""
    format: ResultFormat
    choices: UpscaleChoices
    settings: WorkerSettings
    """Worker settings with exactly one checkpoint."""

    def result(self, picture: str) -> str:
        """The name of a result, independent of other pictures, which may be added later."""
        return f"{picture}.{extension(self.format)}"


def open_store(location: str, *, create: bool = False) -> "LocalStore | S3Store":
    """Open a folder or a bucket; writes are atomic.

    Raises:
        ConfigurationInvalid: there is no such folder, or the address is of another kind.
    """
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, S3Store

    try:
        if location.startswith("s3://"):
            plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
            return S3Store.from_url(location, client_options={"allow_http": plain})
        if "://" not in location:
            return LocalStore(location, mkdir=create)
    except (BaseError, ValueError, OSError) as failure:
        raise ConfigurationInvalid(f"{location}: {str(failure).splitlines()[0]}") from None
    raise ConfigurationInvalid(f"{location} is neither a folder nor s3://BUCKET/PREFIX")


class Upscaler:
    """Loads the network once; called with the names of pictures."""

    def __init__(self, work: Work, threads: int) -> None:
        import ray

        from model.process import prepare_process

        prepare_process(threads, cache=work.settings.cache_dir)  # before torch is imported

        from workers.engine.loading import load_engine
        from workers.engine.local import InProcessEngine

        loaded = load_engine(work.settings, "cuda:0" if ray.get_gpu_ids() else "cpu")
        self._work, self._model = work, loaded.default_model
        self._engine, self._decoder = InProcessEngine(loaded), Decoder(work.settings)
        self._source, self._target = open_store(work.source), open_store(work.target, create=True)

    def __call__(self, batch: "dict[str, np.ndarray[Any, Any]]") -> dict[str, list[str]]:
        """Columns `picture`, `reason` and `detail`; the last two are empty after success."""
        pictures = [str(name) for name in batch["picture"]]
        reasons, details = zip(*map(self._upscale, pictures), strict=True)
        return {"picture": pictures, "reason": list(reasons), "detail": list(details)}

    def _upscale(self, name: str) -> tuple[str, str]:
        import obstore
        from obstore.exceptions import BaseError

        work = self._work
        try:
            if obstore.head(self._source, name)["size"] > work.settings.max_upload_bytes:
                raise UploadTooLarge(limit=work.settings.max_upload_bytes)
            data = bytes(obstore.get(self._source, name).bytes())
            _, made = enlarge(
                self._decoder.decode(data, work.choices),
                self._engine,
                work.choices,
                model=self._model,
                format=work.format,
                mark=work.settings.mark,
                progress=lambda done, tiles: None,  # noqa: ARG005
            )
            obstore.put(self._target, work.result(name), made)
        except PictureFailed as failure:
            return failure.reason, failure.detail
        except GDSRError as failure:
            return failure.slug, str(failure)
        except MemoryError:
            return "no-memory", "its result does not fit into the memory"
        except (BaseError, OSError) as failure:
            return "storage", str(failure).splitlines()[0]
        return "", ""
