"""Freed memory is used again, which saves page faults."""

import subprocess
import sys

import pytest

from common import ROOT

PROGRAM = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from retinaflow.preprocessing.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def work(_):
    for _ in range(50):
        [np.ones(1_000_000, np.uint8) for _ in range(6)]

with ThreadPoolExecutor(1) as pool:
    list(pool.map(work, range(2)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    list(pool.map(work, range(2)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kind: str) -> int:
    command = [sys.executable, "-c", PROGRAM, kind]
    return int(subprocess.run(command, cwd=ROOT / "workflow", capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can keep freed memory")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    assert faults("kept") < 500
    assert faults("not kept") > 5000
