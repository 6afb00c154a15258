"""Memory that a job takes quickly: kept when it is freed, and taken in huge pages.

A job is a process of its own, so each page that it takes is cleared and mapped for it: for a
picture of 256 x 256 some 3000 of 4 KiB, a fifth of all that the job costs. The allocator is set up
in the parent; what is forked inherits that, and the parent itself touches none of the pages.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h
_MADV_HUGEPAGE = 14
_C_INT_MAX = 2**31 - 1
_HUGE_PAGE = 2 * 1024**2
#: Address space for all small and middle-sized blocks of a job with a picture of 512 x 512.
_READY_BYTES = 24 * 1024**2
#: From here on a block is a mapping of its own, given back when it is freed; numpy asks for huge
#: pages for these by itself.
_MAPPED_BYTES = 4 * 1024**2
_MOST_MAPPED_BYTES = 32 * 1024**2  # that glibc lets this be
_BLOCK_HEADER_BYTES = 32


def prepare_allocator() -> None:
    """Set up the allocator of this process and of those that it forks; with glibc only."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.mallopt(_M_ARENA_MAX, 1)  # threads that encode share what is made ready here
    libc.mallopt(_M_TRIM_THRESHOLD, _C_INT_MAX)
    libc.mallopt(_M_MMAP_THRESHOLD, _MOST_MAPPED_BYTES)
    block = libc.malloc(ctypes.c_size_t(_READY_BYTES))
    if block is None:
        return
    start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    size = (block + _READY_BYTES - start) // _HUGE_PAGE * _HUGE_PAGE
    # Where the system has no huge pages this fails, and nothing is lost.
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    libc.free(block)
    # What lies before the first huge page stays taken, else a job would begin there.
    libc.malloc(ctypes.c_size_t(max(start - block - _BLOCK_HEADER_BYTES, 0)))
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
