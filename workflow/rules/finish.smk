# The end of a run in which jobs failed: rank the models that are finished, and list the others with the reason.

import time

from snakemake_logger_plugin_retinaflow import joblogs, ranking

BEGIN = time.time()


def is_open(job):
    """Whether a job was still to be run when the run ended."""
    return workflow.dag.needrun(job) and not workflow.dag.finished(job)


def failure(job):
    """Message of a job that failed in this run, in one line; empty for others."""
    for log in map(Path, job.log):
        if log.exists() and log.stat().st_mtime >= BEGIN:
            return " ".join(joblogs.message(log).removeprefix("error: ").split())
    return ""


def reason(job):
    """Why a job was not run: the rule and the message of the failed job that it waits for. Empty if none failed."""
    seen, waiting = {job}, [job]
    while waiting:
        current = waiting.pop()
        before = [other for other in workflow.dag.dependencies[current] if is_open(other)]
        if not before and (message := failure(current)):
            return f"{current.rule.name.replace('_', ' ')} failed: {message}"
        waiting += [other for other in before if other not in seen]
        seen.update(before)
    return ""


def unfinished_models():
    """Models without grades at the end of this run, each with the reason. None if no comparison was asked for."""
    makers = {str(file): job for job in workflow.dag.jobs for file in job.output}
    if path("comparison", "leave_out.csv" if LEFT_OUT_SETS else "comparison.csv") not in makers:
        return None
    jobs = {model: makers.get(path("models", model, "decision_rule.json")) for model in MODELS.names}
    return {model: reason(job) for model, job in jobs.items() if job is not None and is_open(job)}


def rank_finished():
    """Rank the finished models after a failure, and show the ranking: one of each data set that is left out."""
    unfinished = unfinished_models()
    if not unfinished or not any(unfinished.values()):  # The user ended the run.
        return
    for left_out in LEFT_OUT_SETS or [""]:
        compared = [model for model in MODELS.names if lookups.left_out_of(model) == left_out]
        # The folds of a network have no rank without the network.
        finished = [model for model in compared if not {model, model.split("/")[0]} & unfinished.keys()]
        failed = {
            lookups.common_name(model): unfinished[model] or "not run"
            for model in MODELS.ranked
            if model in unfinished and model in compared
        }
        if not finished or not failed:
            continue
        try:
            show_ranking(finished, failed, left_out)
        except Exception as error:  # The run has failed anyway. Its own messages must be shown.
            logger.warning(f"The finished models could not be ranked: {error}")


def show_ranking(finished, failed, left_out):
    """Rank models, and show the ranking and the reason of each model that failed."""
    from retinaflow.scoring.compare import ComparisonFiles, compare

    folder = path("comparison", f"without-{left_out}" if left_out else "")
    table, markdown = (Path(folder, f"unfinished.{suffix}") for suffix in ("csv", "md"))
    compare(
        [Path(file) for file in score_files("metrics.json", finished)],
        [Path(file) for file in score_files("predictions.csv", finished)],
        bootstrap_samples=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
        files=ComparisonFiles(table=table, pairs=None, repeats=None, data_sets=None, markdown=markdown),
        failed=failed,
        left_out=left_out,
    )
    lines = ["", *ranking.lines(table), *(f"{model}: {text}" for model, text in failed.items()), f"Details: {markdown}"]
    logger.info("\n".join(lines))


def remove_unfinished():
    """Remove the rankings of an earlier run, after a run that compared all models."""
    if unfinished_models() is not None:
        for file in Path(path("comparison")).rglob("*unfinished.*"):  # with its record
            file.unlink()
