# The library of this workflow, and the check of a configuration file before Snakemake reads it.

import os
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import DeploymentMethod

# The folder above this one. If the workflow is deployed from a repository, this is an address and not a folder.
WORKFLOW = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent


def require_library():
    """Refuse an installed library of another version. The workflow has no library beside it."""
    pyproject = tomllib.loads(Path(workflow.source_path("../../pyproject.toml")).read_text(encoding="utf-8"))
    needed = pyproject["project"]["version"]
    try:
        found = version("retinaflow")
    except PackageNotFoundError:
        found = None
    if found != needed:
        raise WorkflowError(
            f"This workflow needs the package retinaflow {needed}, but {sys.executable} has "
            f"{f'retinaflow {found}' if found else 'none'}. Install this version: "
            f"`pip install 'retinaflow[workflow]=={needed}'`, or `pip install '.[workflow]'` in its checkout."
        )
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        raise WorkflowError(
            "--software-deployment-method conda: its environments have no package retinaflow, and this workflow has no "
            "library beside it. Run jobs without this option, or use a checkout of the workflow."
        )


if (WORKFLOW / "retinaflow").is_dir():
    # A checkout runs its own library, here and in scripts. Scripts may run in a container.
    sys.path.insert(0, str(WORKFLOW))
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [str(WORKFLOW), os.environ.get("PYTHONPATH")])))
else:
    require_library()

from retinaflow.config.limits import check_text
from retinaflow.errors import RetinaflowError


def check_default_configuration(file):
    """Check the text of the default configuration file.

    Some mistakes, such as a number of thousands of digits, end in a traceback of Snakemake when it reads the file.
    """
    if workflow.modifier.skip_configfile or not Path(file).is_file():
        return
    try:
        check_text([file])
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None
