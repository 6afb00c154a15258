"""Recognises failed allocations."""

#: Parts of the messages of CUDA, torch and OpenVINO.
_OUT_OF_MEMORY = (
    "out of memory", "can't alloc", "not enough memory", "could not create a memory object",
    "bad_alloc", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "Failed to allocate",
    "Resource temporarily unavailable",  # no memory for the stack of a thread
)  # fmt: skip


def is_out_of_memory(failure: BaseException) -> bool:
    """True if a failure means that the device or the host is out of memory."""
    if isinstance(failure, RuntimeError):
        return any(words in str(failure) for words in _OUT_OF_MEMORY)
    return isinstance(failure, MemoryError)
