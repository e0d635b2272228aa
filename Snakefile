"""Which pretrained CNN parameters can be reused, in which layers, and what is gained: PR-RMSE.

data -> base -> swap, rmse, bn_shift -> verdict -> transfer -> claims, figures, metrics -> report -> manifest

One rule file per stage in workflow/rules/; each rule runs the script of its name in workflow/scripts/;
the science is in src/prrmse/. Every parameter comes from params.yaml.
"""


include: "workflow/rules/package.smk"


configfile: "params.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


container: config["container"]


include: "workflow/rules/data.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/swap.smk"
include: "workflow/rules/rmse.smk"
include: "workflow/rules/bn_shift.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/examples.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/crate.smk"
include: "workflow/rules/controls.smk"
include: "workflow/rules/screen.smk"
include: "workflow/rules/joint.smk"
include: "workflow/rules/factorial.smk"
include: "workflow/rules/ranking.smk"
include: "workflow/rules/evidence.smk"
include: "workflow/rules/study.smk"


rule all:
    default_target: True
    input:
        rules.report.output,
        rules.figures.output,
        EXAMPLES,
        rules.transfer_table.output,
        rules.metrics.output,
        rules.manifest.output,
        TABLES,


rule reuse:
    """Which parameters can be reused: everything before the transfer experiment."""
    input:
        rules.swap_table.output,
        rules.rmse.output,
        rules.bn_shift.output,
        rules.verdict.output,


if workflow.is_main_process:
    from prrmse.run.records import unverified_results

    if found := unverified_results(workflow.rules, mark=EXECUTES):
        logger.warning(
            f"{len(found)} results have no whole note of what they were made with, or their data were replaced by older "
            f"files, the first is {found[0]}: made anew by the next run (to take them as they are: snakemake --touch)"
        )
