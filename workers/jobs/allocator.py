"""Allocator settings for jobs: freed memory is kept, and huge pages are used.

Each page that a job touches has to be cleared and mapped. The allocator is configured in the parent
and inherited by forked processes; the parent itself touches none of these pages. A process that
does several jobs gives freed pages back between them, so that none finds another's pixels.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h
_MADV_HUGEPAGE = 14
_C_INT_MAX = 2**31 - 1
_HUGE_PAGE = 2 * 1024**2
#: Address space for all small and medium blocks of a job with a picture of 512 x 512.
_READY_BYTES = 24 * 1024**2
#: Larger blocks are separate mappings, returned when freed; numpy requests huge pages for them
#: itself.
_MAPPED_BYTES = 4 * 1024**2
_MAX_MAPPED_BYTES = 32 * 1024**2  # bytes that glibc ignores
_BLOCK_HEADER_BYTES = 32


def prepare_allocator() -> None:
    """Configure the allocator of this process and of its forked children; glibc only."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.mallopt(_M_ARENA_MAX, 1)  # encoder threads share the arena that is configured here
    libc.mallopt(_M_TRIM_THRESHOLD, _C_INT_MAX)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAX_MAPPED_BYTES)
    block = libc.malloc(ctypes.c_size_t(_READY_BYTES))
    if block is None:
        return
    start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    size = (block + _READY_BYTES - start) // _HUGE_PAGE * _HUGE_PAGE
    # Fails harmlessly on systems without huge pages.
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    libc.free(block)
    # Memory before the first huge page stays allocated, otherwise a job would start there.
    libc.malloc(ctypes.c_size_t(max(start - block - _BLOCK_HEADER_BYTES, 0)))
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def return_freed_memory() -> None:
    """Give whole pages of freed memory back to the kernel, which clears them; glibc only."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.malloc_trim(ctypes.c_size_t(0))
