"""How the C library deals with memory that photographs and batches leave behind."""

import ctypes

# As malloc.h of glibc numbers them.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 128 << 20  # bytes free at the end of a heap before they go back
LARGEST = 32 << 20  # bytes of what is taken from a heap at all; glibc accepts no more


def keep_freed_memory() -> None:
    """Have freed memory wait for the next photograph instead of going back to the system each time.

    Every page that comes anew takes a fault, which costs a quarter of the time of preprocessing, and more in threads.
    Does nothing where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(TRIM_THRESHOLD, KEPT)
        library.mallopt(MMAP_THRESHOLD, LARGEST)
