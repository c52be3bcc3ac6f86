"""Reuse of freed memory by the C library."""

import ctypes

# Numbers of these parameters in malloc.h of glibc.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 128 << 20  # Bytes that may be free at the end of a heap.
LARGEST_BLOCK = 32 << 20  # Bytes of the largest block on a heap. glibc accepts no more.


def keep_freed_memory() -> None:
    """Keep freed memory for the next image instead of returning it to the system.

    Each new page costs a fault. These faults take a quarter of the time of preprocessing, and more with threads. The
    function does nothing if the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(TRIM_THRESHOLD, KEPT)
        library.mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)
