"""The engine takes turns, shares batches and survives misbehaving clients over its real socket."""

import copy
import math
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import TILE, serving, tiles
from factories import Pixels
from networks import not_finite, tiny_checkpoint
from processes import wait_for

from model.checkpoint import load_checkpoint
from model.inference import forward as forward_module
from model.inference.forward import Forward
from workers.contract.errors import EngineLost, TileNotFinite
from workers.contract.settings import WorkerSettings
from workers.engine.client import EngineClient
from workers.engine.loading import LoadedEngine, load_engine
from workers.engine.local import InProcessEngine
from workers.engine.model_cache import CachedModel
from workers.engine.protocol import Layout, create_shared_tiles, receive, send, slots_within
from workers.engine.server import Client, EngineServer
from workers.tiles.trade_off import MASK, Weights, output_weights

FUSED = output_weights(0.5)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedEngine:
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_checkpoint(folder / "tiny.safetensors")
    not_finite(tiny_checkpoint(folder / "broken.safetensors"))
    settings = WorkerSettings(checkpoints=(folder / "tiny.safetensors",), precision="float32")
    loaded = load_engine(settings.model_copy(update={"tile": TILE}), "cpu")
    forward = Forward(
        load_checkpoint(folder / "broken.safetensors").generator,
        device=torch.device("cpu"),
        precision="float32",
    )
    bad = told(loaded.forwards["tiny"], name="broken")
    bad.forward = forward
    return LoadedEngine(
        forwards={**loaded.forwards, "broken": bad},
        model_cache=loaded.model_cache,
        default_model="tiny",
        device_name="CPU",
        batches={TILE: 4, 96: 4},
    )


def told(model: CachedModel, **changes: object) -> CachedModel:
    """Return a copy of a model with changed information."""
    other = copy.copy(model)
    other.info = model.info.model_copy(update=changes)
    return other


@pytest.fixture
def server(loaded: LoadedEngine, place: Path) -> Iterator[EngineServer]:
    with serving(loaded, place) as server:
        yield server


def connect(place: Path) -> EngineClient:
    return EngineClient([place], model="tiny", patience=timedelta(seconds=60))


def results(client: EngineClient, batch: list[Pixels], weights: Weights = FUSED) -> list[Pixels]:
    return [result.copy() for result in client.run(batch, model="tiny", weights=[weights])]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("trade_off", [0.0, 0.3, 0.5, 1.0])
def test_results_come_in_order_and_are_those_of_the_network(
    loaded: LoadedEngine, place: Path, trade_off: float
) -> None:
    weights = output_weights(trade_off)
    batch = tiles(11)
    with connect(place) as client:
        through_socket = results(client, batch, weights)
    direct = InProcessEngine(loaded).run(batch, model="tiny", weights=[weights])

    assert len(through_socket) == 11
    for got, expected in zip(through_socket, direct, strict=True):
        assert np.abs(got.astype(np.int16) - expected).max() <= 1  # batches may round differently


@pytest.mark.parametrize("trade_off", [0.3, 1.0])
def test_batches_that_start_early_come_back_the_same(
    loaded: LoadedEngine, place: Path, trade_off: float
) -> None:
    weights = output_weights(trade_off)
    with serving(replace(loaded, overlaps=True), place), connect(place) as client:
        early = results(client, tiles(11), weights)
    with serving(loaded, place), connect(place) as client:
        late = results(client, tiles(11), weights)

    assert len(early) == 11
    assert np.abs(np.array(early, np.int16) - late).max() <= 1


def test_a_broken_tile_does_not_take_another_down_where_batches_start_early(
    loaded: LoadedEngine, place: Path
) -> None:
    with serving(replace(loaded, overlaps=True), place):
        with connect(place) as client, pytest.raises(TileNotFinite):
            list(client.run(tiles(3), model="broken", weights=[output_weights(1)]))
        with connect(place) as client:
            assert len(results(client, tiles(3))) == 3


@pytest.mark.usefixtures("server")
def test_each_job_chooses_the_size_of_its_tiles(place: Path) -> None:
    large = [np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)] * 3
    with connect(place) as client:
        assert client.tiles == [TILE, 96]
        assert [result.shape[1] for result in results(client, large)] == [384] * 3
    with connect(place) as client:
        assert [result.shape[1] for result in results(client, tiles(3))] == [256] * 3


def test_batches_are_powers_of_two(loaded: LoadedEngine, place: Path) -> None:
    server = EngineServer(replace(loaded, batches={TILE: 8, 96: 1}), path=place)
    client = Client(server._woken, server.loaded, model="tiny", weights=(FUSED,), tile=TILE)
    client.waiting.extend(range(15))
    server._clients.append(client)

    sizes = []
    while client.waiting:
        sizes.append(len(server._next_batch()))

    assert sizes == [8, 4, 2, 1]
    for end in (server._listener, server._woken, server._wake_reader):
        end.close()


STAGES = {"upload": "upload", "forward": "_blend", "blend": "_blended", "download": "download"}


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_memory_that_runs_out_anywhere_gives_the_picture_with_less(
    loaded: LoadedEngine,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    overlaps: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    batch = tiles(6)
    expected = list(InProcessEngine(loaded).run(batch, model="tiny", weights=[FUSED]))
    where = Forward if stage == "forward" else forward_module
    whole = getattr(where, STAGES[stage])

    def limited(*given: Any, **named: Any) -> Any:
        if pixels(given) > TILE * TILE:
            raise torch.OutOfMemoryError(f"CUDA out of memory in {stage}")
        return whole(*given, **named)

    def pixels(given: tuple[Any, ...]) -> int:
        """Input pixels of the batch, from this stage's arguments."""
        match stage:
            case "upload":
                return 0 if given[0].dim() < 4 else math.prod(given[0].shape[:3])
            case "forward":
                return math.prod(given[2].shape[:3])
            case "blend":
                image = next(iter(given[0].values()))
                return len(image) * image.shape[2] * image.shape[3] // 16
            case _:
                return math.prod(given[0][1].shape[:3]) // 16

    monkeypatch.setattr(where, STAGES[stage], limited)
    with serving(replace(loaded, overlaps=overlaps), place) as server:
        with connect(place) as client:
            found = results(client, batch)
        with connect(place) as client:
            again = results(client, batch)
        retries = server.fallback.retries

    for got in (found, again):
        assert len(got) == 6
        for one, other in zip(got, expected, strict=True):
            assert np.abs(one.astype(np.int16) - other).max() <= 1
    assert (server.fallback.batch, server.fallback.tile) == (1, 96)
    assert retries == 2  # from 4 tiles to 2 to 1, and remembered


EVERYTHING = [*(output_weights(stop) for stop in (0, 0.5, 1)), MASK]


@pytest.mark.usefixtures("server")
def test_a_tile_has_a_result_for_each_of_the_weights(place: Path) -> None:
    batch = tiles(9)
    with connect(place) as client:
        alone = [results(client, batch, weights) for weights in EVERYTHING]
        running = client.run(batch, model="tiny", weights=EVERYTHING)
        together = [result.copy() for result in running]

    assert len(together) == 9
    for tile, result in enumerate(together):
        assert result.shape == (4, 4 * TILE, 4 * TILE, 3)
        for row, one in enumerate(alone):
            assert np.abs(result[row].astype(np.int16) - one[tile][0]).max() <= 1


def test_jobs_that_want_the_same_results_share_a_batch(loaded: LoadedEngine, place: Path) -> None:
    server = EngineServer(loaded, path=place)
    server._reader.start()  # accepts clients before anything is computed
    wanted = (EVERYTHING, EVERYTHING, [FUSED])

    def job(weights: list[Weights]) -> None:
        with connect(place) as client:
            for _ in client.run(tiles(2), model="tiny", weights=weights):
                pass

    threads = [threading.Thread(target=job, args=(weights,)) for weights in wanted]
    for thread in threads:
        thread.start()
    wait_for(lambda: server._pending() == 6)
    with server._changed:
        batches = [server._next_batch() for _ in range(2)]
    for batch in batches:
        server._finish(server._begin(batch))
    for thread in threads:
        thread.join(timeout=60)
    server._wake_reader.close()
    server._reader.join(timeout=60)
    server._woken.close()

    assert sorted(len(batch) for batch in batches) == [2, 4]
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.usefixtures("server")
def test_a_picture_of_only_flat_tiles_sends_nothing(place: Path) -> None:
    with connect(place) as client:
        assert results(client, []) == []


def test_a_small_job_is_served_between_the_batches_of_a_huge_one(
    loaded: LoadedEngine, place: Path
) -> None:
    server = EngineServer(loaded, path=place)
    server._reader.start()  # accepts clients before anything is computed
    batches: list[list[Client]] = []

    def job(count: int, trade_off: float) -> None:
        with connect(place) as client:
            assert len(results(client, tiles(count), output_weights(trade_off))) == count

    huge, small = (threading.Thread(target=job, args=given) for given in ((40, 1), (2, 0)))
    huge.start()
    wait_for(lambda: server._pending() == server._slots, what="as many tiles as may wait")
    small.start()
    wait_for(lambda: server._pending() == server._slots + 2, what="the tiles of the small job")
    first, later = server._clients
    while huge.is_alive() or small.is_alive():
        with server._changed:
            server._changed.wait_for(server._pending, timeout=0.1)
            batch = server._next_batch() if server._pending() else []
        if batch:
            server._finish(server._begin(batch))
            batches.append([client for client, _ in batch])
    server._wake_reader.close()
    server._reader.join(timeout=60)
    server._woken.close()

    assert batches[:3] == [[first] * 4, [later] * 2, [first] * 4]
    assert sum(map(len, batches)) == 42


def test_a_dead_client_is_forgotten_and_the_next_is_served(
    server: EngineServer, place: Path
) -> None:
    dead = connect(place)
    running = dead.run(iter(tiles(50)), model="tiny", weights=[FUSED])
    next(running)
    dead._connection.close()
    with connect(place) as client:
        assert len(results(client, tiles(2))) == 2

    wait_for(lambda: not server._clients, what="no client left")


@pytest.mark.parametrize("overlaps", [False, True])
def test_an_idle_engine_keeps_no_memory_of_an_ended_job(
    loaded: LoadedEngine, place: Path, *, overlaps: bool
) -> None:
    before = shared_mappings()
    with serving(replace(loaded, overlaps=overlaps), place):
        with connect(place) as client:
            assert len(results(client, tiles(3))) == 3

        wait_for(lambda: shared_mappings() <= before)


def shared_mappings() -> set[str]:
    """The shared memory of jobs that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if "gdsr-tiles" in line}


def test_a_restarted_engine_gets_the_open_tiles_again(loaded: LoadedEngine, place: Path) -> None:
    batch = tiles(12)
    expected = [r.copy() for r in InProcessEngine(loaded).run(batch, model="tiny", weights=[FUSED])]
    got = []
    with serving(loaded, place):
        client = connect(place)
        running = client.run(iter(batch), model="tiny", weights=[FUSED])
        got += [next(running).copy() for _ in range(3)]
    with serving(loaded, place), client:
        got += [result.copy() for result in running]

    assert len(got) == 12
    for one, other in zip(got, expected, strict=True):
        assert np.abs(one.astype(np.int16) - other).max() <= 1


def test_an_engine_that_accepts_no_jobs_can_still_be_probed_beside_two_hundred_jobs(
    loaded: LoadedEngine, tmp_path: Path
) -> None:
    hanging = EngineServer(loaded, path=tmp_path / "hanging.sock")  # which does not serve
    with ExitStack() as waiting:
        for _ in range(200):
            job = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            job.settimeout(0)
            job.connect(str(tmp_path / "hanging.sock"))
    hanging.stop()
    hanging.serve()


def test_an_engine_that_stays_away_is_lost(loaded: LoadedEngine, place: Path) -> None:
    with serving(loaded, place):
        client = EngineClient([place], model="tiny", patience=timedelta(seconds=0.2))
        running = client.run(iter(tiles(12)), model="tiny", weights=[FUSED])
        next(running)
    with pytest.raises(EngineLost, match="no engine was available within"), client:
        list(running)


def test_an_output_that_is_not_finite_fails_its_own_job_only(
    server: EngineServer, place: Path
) -> None:
    with connect(place) as client, pytest.raises(TileNotFinite):
        list(client.run(tiles(3), model="broken", weights=[output_weights(1)]))
    with connect(place) as client:
        fine = list(client.run(tiles(3), model="broken", weights=[output_weights(0)]))

    assert len(fine) == 3
    assert server.tiles_done >= 3


@pytest.mark.parametrize("card", [True, False])
def test_consistency_is_as_the_card_says_unless_asked_otherwise(
    loaded: LoadedEngine,
    place: Path,
    card: bool,  # noqa: FBT001
) -> None:
    tiny = loaded.forwards["tiny"]
    forwards = {"tiny": told(tiny, card=tiny.info.card | {"consistency": card})}
    with serving(replace(loaded, forwards=forwards), place), connect(place) as client:
        unset, on, off = (
            next(client.run(tiles(1), model="tiny", weights=[FUSED], consistent=wish)).copy()
            for wish in (None, True, False)
        )
        says = client.made_by("tiny").consistency
    engine = InProcessEngine(replace(loaded, forwards=forwards))
    local = next(engine.run(tiles(1), model="tiny", weights=[FUSED]))

    assert says is card
    assert not np.array_equal(on, off)
    assert np.array_equal(unset, on if card else off)
    assert np.array_equal(local, unset)


@pytest.mark.usefixtures("server")
def test_an_unknown_model_is_named(place: Path) -> None:
    with connect(place) as client, pytest.raises(EngineLost, match="there is no model 'huge'"):
        list(client.run(tiles(1), model="huge", weights=[FUSED]))


def test_a_greeting_may_name_hundreds_of_models(loaded: LoadedEngine, place: Path) -> None:
    names = [f"{number:060}" for number in range(400)]
    many = {name: told(loaded.forwards["tiny"], name=name) for name in names}
    crowded = replace(loaded, forwards={**loaded.forwards, **many})
    with serving(crowded, place), connect(place) as client:
        assert len(results(client, tiles(1))) == 1


HELLO: dict[str, object] = {
    "model": "tiny", "weights": [[0, 1, 0, 0]], "tile": TILE, "slots": 8, "alone": False,
}  # fmt: skip


def opening(place: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(60)
    connection.connect(str(place))
    receive(connection)
    return connection


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "message",
    [
        b"not json",
        b"[]",
        b"{}",
        b'{"slot": 0}',
        b'{"model": "tiny", "weights": [[0, 1, 0, 0]], "tile": 64, "slots": 8, "alone": false}',
        b'{"model": "tiny", "weights": [[0, 1, 0, 0]], "tile": 100, "slots": 8, "alone": false}',
        b'{"model": "tiny", "weights": "all", "alone": false}',
        b'{"model": "tiny", "weights": [], "alone": false}',
        b'{"model": "tiny", "weights": [[0, 0, 0, 0]], "alone": false}',
        b'{"model": "tiny", "weights": [[0, 1, 0, 1]], "alone": false}',
        b'{"model": "tiny", "weights": [[0, 1%s, 0, 0]], "alone": false}' % (b"0" * 400),
        b"[" * 10_000,
    ],
    ids=lambda message: message[:70].decode(),
)
def test_nonsense_is_refused_and_the_engine_goes_on(place: Path, message: bytes) -> None:
    with opening(place) as connection:
        connection.send(message)
        answer = receive(connection)

        assert answer is None or "failed" in answer[0]
        assert answer is None or receive(connection) is None
    with connect(place) as client:
        assert len(results(client, tiles(1))) == 1


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kind", ["unsealed", "too small", "a pipe"])
def test_memory_that_could_be_taken_away_is_refused(place: Path, kind: str) -> None:
    fds = []
    if kind == "a pipe":
        fds = list(os.pipe())
    elif kind == "unsealed":
        fds = [os.memfd_create("unsealed")]
        os.ftruncate(fds[0], 4096 + 8 * TILE * TILE * 3 * 17)
    else:
        fds = [create_shared_tiles(Layout(slots=8, tile=16))[0]]
    try:
        with opening(place) as connection:
            send(connection, HELLO, (fds[0],))
            answer = receive(connection)

            assert answer is not None
            assert "not sealed or not of the agreed size" in answer[0]["detail"]
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.usefixtures("server")
def test_memory_that_the_engine_cannot_map_is_refused_with_the_reason(place: Path) -> None:
    fd, _ = create_shared_tiles(Layout(slots=8, tile=TILE))
    unwritable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    try:
        with opening(place) as connection:
            send(connection, HELLO, (unwritable,))
            answer = receive(connection)
    finally:
        os.close(unwritable)
        os.close(fd)

    assert answer is not None  # else the client would connect again and again
    assert "cannot be mapped" in answer[0]["detail"]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("slot", [-1, 8, 10**9, "one"])
def test_a_slot_that_does_not_exist_is_refused(place: Path, slot: object) -> None:
    fd, _ = create_shared_tiles(Layout(slots=8, tile=TILE))
    with opening(place) as connection:
        send(connection, HELLO, (fd,))
        send(connection, {"slot": slot})
        answer = receive(connection)
    os.close(fd)

    assert answer is not None
    assert answer[0]["failed"] == "engine-refused"


def test_tiles_without_room_are_a_lack_of_memory_and_leave_no_file_open() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 * 1024**3, limits[1]))
    try:
        with pytest.raises(MemoryError):  # which fails the job as job-out-of-memory
            create_shared_tiles(Layout(slots=4096, tile=512, bits=16))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)

    assert set(Path("/proc/self/fd").iterdir()) == before


def test_deep_tiles_of_many_results_share_few_slots() -> None:
    assert slots_within(256 * 1024**2, tile=288, results=1, bits=8) > 8
    assert slots_within(256 * 1024**2, tile=512, results=4, bits=16) == 2


@pytest.mark.usefixtures("server")
def test_one_client_sends_one_picture_after_another(place: Path) -> None:
    with connect(place) as client:
        first, second = results(client, tiles(3)), results(client, tiles(3))

    assert len(first) == len(second) == 3
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("side", [TILE, 96])
def test_a_second_pass_finds_an_engine_for_its_tiles_where_engines_differ(
    loaded: LoadedEngine, tmp_path: Path, side: int
) -> None:
    here, other = tmp_path / "here.sock", tmp_path / "other.sock"
    small = replace(loaded, batches={TILE: 1})  # with fewer slots too
    batch = list(np.random.default_rng(0).integers(0, 256, (6, side, side, 3), dtype=np.uint8))
    with (
        serving(loaded, here),
        EngineClient([other, here], model="tiny", patience=timedelta(seconds=60)) as client,
    ):
        first = results(client, batch)
        with serving(small, other):
            second = results(client, batch)

    assert len(first) == len(second) == 6
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("server")
def test_tiles_of_16_bits_go_through_at_their_full_depth(place: Path) -> None:
    batch = tiles(2)
    deep = [tile.astype(np.uint16) * 257 for tile in batch]
    with connect(place) as client:
        shallow_results, deep_results = results(client, batch), results(client, deep)

    for shallow, result in zip(shallow_results, deep_results, strict=True):
        assert result.dtype == np.uint16
        assert np.abs(result / 257 - shallow).max() <= 0.51
        assert len(np.unique(result)) > 1000
