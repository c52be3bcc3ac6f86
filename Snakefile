# Train, score and compare models that grade diabetic retinopathy on fundus images.

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/library.smk"


# A file named with --configfile replaces the default one. Merged with it, a demo would find the user's images, and one
# model would bring the others along. A workflow that includes this one and has read its own file does not read it either.
if not workflow.configfiles or not workflow.modifier.is_main_snakefile():
    check_default_configuration("config/config.yaml")

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/start.smk"
include: "workflow/rules/resources.smk"


# Container of all rules. Only `--software-deployment-method apptainer` uses it; docs/containers.md explains how to make it.
container: IMAGE


# The first page of the report.
report: "workflow/report/workflow.rst"


include: "workflow/rules/demo.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/unpack.smk"
include: "workflow/rules/inventory.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/organize.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/eyes.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/linear.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/evidence.smk"
include: "workflow/rules/bundle.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/explain.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/finish.smk"


onstart:
    begin_run()
    date_results()
    remove_default_limit(workflow)


onsuccess:
    remove_unfinished()


onerror:
    rank_finished()


rule all:
    default_target: True
    input:
        final_output(),
    localrule: True


rule preflight:
    input:
        inventory_output(),
    localrule: True


rule weights:
    input:
        fetched_weights(),
    localrule: True


rule quick:
    input:
        quick_output(),
    localrule: True


rule probe:
    input:
        probe_output(),
    localrule: True


rule explain:
    input:
        explained(),
    localrule: True


rule export:
    input:
        exported(),
    localrule: True


rule evidence:
    input:
        final_output(),
        *reviewed_output(),
    localrule: True


rule report:
    input:
        report_output(),
    localrule: True


# Part of another workflow, by `module:` or `include:`.
if len(workflow.included_stack) > 1:
    for own in workflow.modifier.rules:
        own.set_input(begin_hosted_run)
