"""Dates of results that a host with a clock ahead has written. Dates decide no result."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

STAMP = ".snakemake_timestamp"  # has the date of a folder that is an input or output of a rule


def date_at_present(inputs: Iterable[str], outputs: Iterable[str], results: str) -> None:
    """Date the results that are dated ahead of the clock at the present.

    Snakemake fails jobs whose outputs are older than their inputs. Former outputs stay older than inputs that changed,
    so that they are made again even if this run ends before their jobs. Of a link, its own date changes.

    Args:
        inputs: Inputs of the jobs of a run. Those outside of ``results`` stay as they are.
        outputs: Outputs of these jobs.
        results: Results folder, as the paths begin with it.
    """
    now = time.time()
    for path, date in {**dict.fromkeys(inputs, now), **dict.fromkeys(outputs, now - 1)}.items():
        if path.startswith(f"{results}/"):
            file = Path(path)
            dated = file / STAMP if file.is_dir() and not file.is_symlink() else file
            with suppress(OSError):  # It is missing, or belongs to another user. Snakemake reports the job.
                if dated.lstat().st_mtime > now:
                    os.utime(dated, (date, date), follow_symlinks=False)
