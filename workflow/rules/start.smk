# Checks before the first job of a run, and the lock of the results folder.

# Container image for Apptainer, made from envs/retinaflow.def.
IMAGE = "retinaflow.sif"


@functools.cache
def begin_run():
    """Check the needs of a run, and lock the results folder until this process ends. Return the lock."""
    warn_of_two_profiles()
    check_container()
    return claim_results()


def date_results():
    """Date results of the jobs of this run that another host dated ahead at the present."""
    jobs = list(workflow.dag.needrun_jobs())
    inputs = [str(file) for job in jobs for file in job.input]
    outputs = [str(file) for job in jobs for file in job.output]
    date_at_present(inputs, outputs, path())


def begin_hosted_run(wildcards):
    """Input function without files. It begins a run before its first job, except in a dry run.

    Under `module:`, Snakemake drops `onstart`. A workflow that includes this one may have its own.
    """
    if workflow.is_main_process and workflow.executor_plugin and not workflow.dryrun:
        begin_run()
    return []


def claim_results():
    """Keep other runs from writing to the results folder."""
    try:
        return lock(Path(RESULTS))
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


def warn_of_two_profiles():
    """Warn if profiles/default, which describes this machine, limits jobs on other machines."""
    if workflow.non_local_exec and workflow.resource_settings.cores:
        logger.warning(
            "profiles/default limits all jobs together to the cores and GPUs of this machine. Name your profile with "
            "--workflow-profile, which replaces it."
        )


def check_container():
    """Check that the container image exists before Apptainer runs jobs in it."""
    if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method and not Path(IMAGE).exists():
        raise WorkflowError(
            f"{IMAGE}: no such file. --software-deployment-method apptainer needs this image. Make it: "
            f"apptainer build {IMAGE} envs/retinaflow.def"
        )
