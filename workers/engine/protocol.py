"""The protocol between engines and clients: messages and shared memory.

One SOCK_SEQPACKET connection per job; messages are small JSON objects:

    engine -> client   {"tiles": [T, ...], "slots": S, "pending": n,               on connecting
                        "device": name,
                        "models": {name: [sha256, precision, consistency]}}
    client -> engine   {"model": name, "weights": [[p, f, g, m], ...], "tile": T,
                        "bits": 8 or 16, "consistent": bool or null, "alone": bool,
                        "job": id, "traceparent": text} + one fd                   once
    client -> engine   {"slot": i}                                                 tile i is in
    engine -> client   {"done": i}                                                 and its results
    engine -> client   {"failed": slug, "detail": text, "tile": T or 0}            and it closes

Weights have one row for each of the R results per tile, 1 to 4: the shares of psnr, fused and gan,
or the mask alone. The network runs once for all of them. Pixels are not sent: the fd is a sealed
memfd created by the client, with one page of flags, S tiles of T x T x 3 samples and S times R
results of 4T x 4T x 3, of 8 or 16 bits each. It has no name and is freed with its last user. Before
it computes a tile the engine sets the slot's flag, so that a client whose engine died can tell
whether its own pixels were being computed. Linux only, like the memfd.
"""

import fcntl
import json
import mmap
import os
import socket
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.contract.images.options import SCALE

#: Input pixels of context around the kept part of a tile, and of blending across a seam. Measured
#: on Set14: within 1 grey level and 75 dB of the untiled output
#: (docs/lab/007-tile-context.md).
HALO = 16
FEATHER = 8

#: Maximum number of results per tile: the three outputs and the mask.
MAX_RESULTS = 4
MAX_MESSAGE = 16 * 1024
#: Maximum message size: a greeting lists all models; the kernel accepts no larger message.
MAX_GREETING = 128 * 1024
_FLAGS_BYTES = mmap.PAGESIZE
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class ProtocolError(Exception):
    """The other side sent an invalid message."""


class Layout(NamedTuple):
    """The layout of the shared memory of one connection."""

    slots: int
    tile: int
    results: int = 1
    bits: int = 8

    @property
    def size(self) -> int:
        """Size in bytes.

        Raises:
            ProtocolError: there are more slots than flags.
        """
        if self.slots > _FLAGS_BYTES:
            raise ProtocolError(f"{self.slots} slots; at most {_FLAGS_BYTES}")
        samples = self.slots * self.tile**2 * 3 * (1 + self.results * SCALE**2)
        return _FLAGS_BYTES + samples * (self.bits // 8)


@dataclass(frozen=True, slots=True)
class SharedTiles:
    """The shared memory of one connection: array views of one mapping."""

    flags: NDArray[np.uint8]  # (S,)
    inputs: NDArray[np.unsignedinteger]  # (S, T, T, 3)
    outputs: NDArray[np.unsignedinteger]  # (S, R, 4T, 4T, 3)


def create_shared_tiles(layout: Layout) -> tuple[int, SharedTiles]:
    """Create shared memory and the file descriptor to send, which the caller closes.

    Raises:
        MemoryError: there is no address space for it.
    """
    fd = os.memfd_create("gdsr-tiles", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, layout.size)
        # Without the seals a client could shrink the file, and the engine would die of SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd, _map(fd, layout)
    except OSError as failure:
        os.close(fd)
        raise MemoryError(str(failure)) from failure


def slots_within(limit: int, *, tile: int, results: int, bits: int) -> int:
    """Number of slots that fit into `limit` bytes."""
    one = Layout(1, tile, results, bits).size - _FLAGS_BYTES
    return (limit - _FLAGS_BYTES) // one


def open_shared_tiles(fd: int, layout: Layout) -> SharedTiles:
    """Map the memory of a client; the caller closes `fd`.

    Raises:
        ProtocolError: it is not sealed, has the wrong size, or cannot be mapped.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        sealed = False
    if not sealed or os.fstat(fd).st_size != layout.size:
        raise ProtocolError("the shared memory is not sealed or not of the agreed size")
    try:
        return _map(fd, layout)
    except OSError as failure:  # taken for a lost engine, it would let the client connect again
        raise ProtocolError(f"the shared memory cannot be mapped: {failure.strerror}") from failure


def send(connection: socket.socket, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
    """Send one message.

    Raises:
        OSError: the other side is gone, or does not read.
    """
    socket.send_fds(connection, [json.dumps(message).encode()], fds)


def receive(
    connection: socket.socket, *, limit: int = MAX_MESSAGE
) -> tuple[dict[str, Any], list[int]] | None:
    """Receive the next message with its file descriptors; None if the other side has closed.

    Raises:
        OSError: the connection broke, or timed out.
        ProtocolError: the message is not a JSON object, or is too large.
    """
    data, fds, flags, _ = socket.recv_fds(connection, limit, 1)
    if not data:
        return None
    try:
        message = json.loads(data)
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or not isinstance(message, dict):
            raise ValueError
    except (ValueError, RecursionError):  # the latter of deep nesting
        for fd in fds:
            os.close(fd)
        raise ProtocolError("not a message") from None
    return message, fds


def _map(fd: int, layout: Layout) -> SharedTiles:
    slots, tile, results, bits = layout
    # Map all pages at once: page faults would cost the engine more than copying a result.
    mapped = mmap.mmap(fd, layout.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    memory = np.frombuffer(mapped, np.uint8)
    input_samples = slots * tile * tile * 3
    sample: type[np.unsignedinteger] = np.uint8 if bits == 8 else np.uint16
    pixels: NDArray[np.unsignedinteger] = memory[_FLAGS_BYTES:].view(sample)
    side = SCALE * tile
    return SharedTiles(
        flags=memory[:slots],
        inputs=pixels[:input_samples].reshape(slots, tile, tile, 3),
        outputs=pixels[input_samples:].reshape(slots, results, side, side, 3),
    )
