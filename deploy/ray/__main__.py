"""`gdsr-bulk`: upscales an archive with Ray, and continues where an earlier run ended."""

import argparse
import importlib.util
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store

    from deploy.ray.upscaler import Work

DESCRIPTION = """Enlarge all pictures of a folder or bucket four times, with Ray: on the cluster of
RAY_ADDRESS, else on this machine. Pictures that have a result are skipped. The result of
a.jpg is a.jpg.png, or as --format says."""
#: Maximum number of blocks. One actor takes a whole block, and a run waits for the last one.
_MAX_BLOCKS = 5000


def main() -> int:
    """The console script. Exit status 0; 1 if a picture has no result; 2 for wrong usage."""
    arguments = _parser().parse_args()

    from workers.contract.errors import GDSRError

    try:
        return _run(arguments)
    except (GDSRError, OSError, ValueError) as invalid:
        sys.stderr.write(f"gdsr-bulk: {invalid}\n")
        return 1
    except KeyboardInterrupt:
        return 1


def _parser() -> argparse.ArgumentParser:
    from deploy.upscale.cli import add_picture_options
    from workers.contract.images.formats import ResultFormat

    parser = argparse.ArgumentParser(prog="gdsr-bulk", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument("source", metavar="IN", help="a folder, or s3://BUCKET/PREFIX")
    parser.add_argument("target", metavar="OUT", help="the same, for the results; not inside IN")
    parser.add_argument(
        "--actors", type=int, metavar="N",
        help="processes with a network each; they share the GPUs (default: one per GPU, else one)",
    )  # fmt: skip
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE",
        help=(
            "JSON lines: the pictures without a result, and why; rewritten by each run "
            "(default: failed.jsonl in the folder OUT, or here)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=[one.value for one in ResultFormat], default="png",
        help="of the results (default: %(default)s)",
    )  # fmt: skip
    add_picture_options(parser)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from deploy.ray.upscaler import Work, open_store
    from deploy.upscale.cli import check_libraries, choose_model, read_choices
    from workers.contract.errors import ConfigurationInvalid
    from workers.contract.images.formats import ResultFormat
    from workers.contract.queue.validation import check_format

    if importlib.util.find_spec("ray") is None:
        raise ConfigurationInvalid("Ray is not installed; run pip install '.[ray]' in the checkout")
    if arguments.actors is not None and arguments.actors < 1:
        raise ConfigurationInvalid("--actors: at least one is needed")
    _check_locations(arguments.source, arguments.target)
    choices = read_choices(arguments)
    check_format(choices, ResultFormat(arguments.format))
    check_libraries({arguments.format})
    settings, _ = choose_model(arguments.model)
    work = Work(
        source=arguments.source, target=arguments.target, format=ResultFormat(arguments.format),
        choices=choices, settings=settings,
    )  # fmt: skip
    names = _pictures(work.source)
    there = set(_names(open_store(work.target, create=True)))
    wanted = [name for name in names if work.result(name) not in there]
    sys.stderr.write(f"{len(names):,} pictures, {len(names) - len(wanted):,} have a result\n")
    manifest = arguments.manifest
    if manifest is None:
        manifest = Path("" if "://" in work.target else work.target) / "failed.jsonl"
    started, failed = time.monotonic(), 0
    with manifest.open("w") as lines:
        for name, reason, detail in _results(wanted, work, arguments.actors):
            failed += 1
            line = {"picture": name, "reason": reason, "detail": detail}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            lines.flush()
    spent = time.monotonic() - started
    sys.stderr.write(f"made {len(wanted) - failed:,} of {len(wanted):,} in {spent:,.1f} s\n")
    if failed:
        sys.stderr.write(f"gdsr-bulk: {failed:,} have no result; {manifest} says why\n")
    return int(failed > 0)


def _results(
    wanted: Sequence[str], work: "Work", actors: int | None
) -> Iterator[tuple[str, str, str]]:
    """Make all results; yield picture, reason and detail of each failure."""
    if not wanted:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data  # sets the level of its logger
    from rich.console import Console
    from rich.progress import track

    from deploy.ray.upscaler import Upscaler

    here = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    ray.init(logging_level="warning", log_to_driver=False, **here)
    logging.getLogger("ray.data").setLevel("CRITICAL")  # failures are in the manifest
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # this version of Ray takes max_restarts and max_task_retries in no other way
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    context.max_errored_blocks = -1  # a block whose actor keeps dying does not end the run
    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0)
    count = actors or max(1, int(gpus))
    threads = work.settings.threads or max(1, int(resources["CPU"] / count))
    rows = (
        ray.data.from_items(
            [{"picture": name} for name in wanted],
            override_num_blocks=min(len(wanted), _MAX_BLOCKS),
        )
        .map_batches(
            Upscaler,
            fn_constructor_args=(work, threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=threads,
            num_gpus=min(1, gpus / count),
            max_restarts=-1,
            max_task_retries=1,
        )
        .iter_rows()
    )
    silent = set(wanted)
    for row in track(rows, "upscaling", total=len(wanted), console=Console(stderr=True)):
        silent.discard(row["picture"])
        if row["reason"]:
            yield row["picture"], row["reason"], row["detail"]
    for name in sorted(silent):
        yield name, "actor-died", "its actor died or failed, at it or another picture of its block"


def _pictures(location: str) -> list[str]:
    """The names of the pictures in a store, at any depth."""
    from deploy.ray.upscaler import open_store
    from deploy.upscale.plan import is_picture

    names = [name for name in _names(open_store(location)) if is_picture(PurePosixPath(name))]
    if not names:
        raise ValueError(f"there is no picture in {location}")
    return sorted(names)


def _names(store: "LocalStore | S3Store") -> Iterator[str]:
    import obstore
    from obstore.exceptions import BaseError

    try:
        for entries in obstore.list(store):
            yield from (entry["path"] for entry in entries)
    except BaseError as failure:
        raise OSError(str(failure).splitlines()[0]) from None


def _check_locations(source: str, target: str) -> None:
    """Refuse results inside IN: the next run would take them for pictures."""
    within = [f"{location.rstrip('/')}/" for location in (source, target)]
    if "://" not in source + target:
        within = [f"{Path(location).resolve()}/" for location in (source, target)]
    if within[1].startswith(within[0]):
        raise ValueError(f"{target} lies in {source}; give another OUT")


if __name__ == "__main__":
    sys.exit(main())
