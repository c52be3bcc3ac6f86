"""Check of the text of configuration files before Snakemake reads them.

Snakemake reads the files of ``--configfile`` before any code of the workflow runs. It creates the settings of a logger
plugin even earlier. Some files would otherwise take hours, or end in a traceback.
"""

from collections.abc import Sequence
from pathlib import Path

from snakemake.exceptions import WorkflowError

from retinaflow.config.limits import check_text
from retinaflow.errors import RetinaflowError

_OPTION = "--configfiles"
_SHORTEST = "--configf"  # argparse accepts the start of an option, if no other one starts like it


def named_files(arguments: Sequence[str]) -> list[str]:
    """Return the configuration files that a command line names."""
    found: list[str] = []
    taking = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("-"):
            taking = _OPTION.startswith(name) and name.startswith(_SHORTEST)
            if taking and equals:
                found.append(value)
                taking = False
        elif taking:
            found.append(argument)
    return found


def check_named_files(arguments: Sequence[str]) -> None:
    """Check the configuration files that a command line names. Missing files are left to Snakemake.

    Raises:
        WorkflowError: A file exceeds the limits of ``retinaflow.config.limits``.
    """
    files = [path for path in named_files(arguments) if Path(path).is_file()]
    try:
        check_text(files)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{', '.join(files)}: cannot be read as text in UTF-8 ({error}).") from None
