"""Runtime compilation of CUDA kernels by NVRTC, which comes with torch, and their launch.

Needs no installed compiler. Compiled code is cached in a folder.
"""

import ctypes
import hashlib
import site
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.files import write_cache

_SHARED_MEMORY_ATTRIBUTE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_OVERLAP_ATTRIBUTE = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class KernelUnavailable(RuntimeError):
    """The kernels cannot be compiled or loaded, for the reason in the message."""


class _LaunchAttribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_uint64 * 8)]


class _LaunchConfig(ctypes.Structure):
    _fields_ = [
        *((f"grid_{axis}", ctypes.c_uint) for axis in "xyz"),
        *((f"block_{axis}", ctypes.c_uint) for axis in "xyz"),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("attribute_count", ctypes.c_uint),
    ]


class Kernel:
    """A kernel of a module that is loaded on the current device."""

    def __init__(self, function: ctypes.c_void_p, *, threads: int, shared_bytes: int) -> None:
        self._function = function
        self._threads = threads
        self._shared_bytes = shared_bytes
        value = (ctypes.c_uint64 * 8)(1)
        self._overlap = _LaunchAttribute(id=_OVERLAP_ATTRIBUTE, padding=0, value=value)

    def launch(self, blocks: int, argument: ctypes.Structure) -> None:
        """Queue the kernel on torch's current stream; it may start before the previous one ends."""
        config = _LaunchConfig(
            grid_x=blocks, grid_y=1, grid_z=1, block_x=self._threads, block_y=1, block_z=1,
            shared_bytes=self._shared_bytes, stream=torch.cuda.current_stream().cuda_stream,
            attributes=ctypes.pointer(self._overlap), attribute_count=1,
        )  # fmt: skip
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        _check(_driver().cuLaunchKernelEx(ctypes.byref(config), self._function, arguments, None))


def load_kernels(
    source: str,
    names: Sequence[str],
    *,
    options: Sequence[str],
    threads: int,
    shared_bytes: int,
    folder: Path,
) -> dict[str, Kernel]:
    """Load kernels by their names in C++, such as `convolve<64>`, on torch's current device.

    Raises:
        KernelUnavailable: NVRTC is missing or reports an error, or the driver does.
    """
    key = "\0".join((source, *names, *options, str(torch.version.cuda)))
    path = folder / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.cubin"
    lowered_path = path.with_suffix(".names")
    try:
        image, lowered = path.read_bytes(), lowered_path.read_text().split("\n")
    except OSError:
        image, lowered = _compiled(source, names, options)
        write_cache(path, image)
        write_cache(lowered_path, "\n".join(lowered).encode())
    torch.cuda.current_stream().synchronize()  # makes torch's context the current one
    driver = _driver()
    module = ctypes.c_void_p()
    _check(driver.cuModuleLoadData(ctypes.byref(module), image))
    kernels = {}
    for name, symbol in zip(names, lowered, strict=True):
        function = ctypes.c_void_p()
        _check(driver.cuModuleGetFunction(ctypes.byref(function), module, symbol.encode()))
        _check(driver.cuFuncSetAttribute(function, _SHARED_MEMORY_ATTRIBUTE, shared_bytes))
        kernels[name] = Kernel(function, threads=threads, shared_bytes=shared_bytes)
    return kernels


def _compiled(source: str, names: Sequence[str], options: Sequence[str]) -> tuple[bytes, list[str]]:
    """The machine code, and the mangled names of its functions."""
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        for name in names:
            nvrtc.nvrtcAddNameExpression(program, name.encode())
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), given):
            report = _text(nvrtc, "ProgramLog", program).decode(errors="replace").strip()
            raise KernelUnavailable(
                f"NVRTC cannot compile the kernels: {report or 'no reason given'}"
            )
        image = _text(nvrtc, "CUBIN", program)
        lowered = []
        for name in names:
            symbol = ctypes.c_char_p()
            nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(symbol))
            lowered.append((symbol.value or b"").decode())
        return image, lowered
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _nvrtc() -> ctypes.CDLL:
    major = (torch.version.cuda or "0").split(".")[0]
    name = f"libnvrtc.so.{major}"
    folders = map(Path, dict.fromkeys((*site.getsitepackages(), *sys.path)))
    # Else from the packages that torch depends on.
    shipped = (path for folder in folders for path in sorted(folder.glob(f"nvidia/*/lib/{name}")))
    for candidate in (name, *map(str, shipped)):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise KernelUnavailable(f"{name} was not found")


def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _check(result: int) -> None:
    if result:
        name = ctypes.c_char_p()
        _driver().cuGetErrorString(result, ctypes.byref(name))
        raise KernelUnavailable(f"CUDA: {(name.value or b'error %d' % result).decode()}")
