# From a folder of fundus photographs and a label table to graders of diabetic retinopathy, trained, scored and compared.

from snakemake.utils import min_version

min_version("9.0")


# A file named with --configfile takes the place of the default one: merged with it, a demo would pick up somebody's
# photographs and a single backbone would bring the other two along.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


# Of all rules. Only `--software-deployment-method apptainer` looks at it; docs/containers.md says how to make it.
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
include: "workflow/rules/predict.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/explain.smk"
include: "workflow/rules/export.smk"


onstart:
    claim_results()
    warn_of_two_profiles()
    check_container()


localrules:
    all,
    preflight,
    weights,
    probe,
    report,
    explain,
    export,


rule all:
    default_target: True
    input:
        final_output(),


rule preflight:
    input:
        inventory_output(),


rule weights:
    input:
        fetched_weights(),


rule probe:
    input:
        probe_output(),


rule explain:
    input:
        explained(),


rule export:
    input:
        exported(),


rule report:
    input:
        report_output(),
