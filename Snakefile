"""Which pretrained CNN parameters can be reused, in which layers, and what is gained: PR-RMSE.

data -> base -> swap, rmse, bn_shift -> verdict -> transfer -> claims, figures -> report

One rule file per stage in workflow/rules/; each rule runs the script of its name in workflow/scripts/;
the science is in src/prrmse/. Every parameter comes from params.yaml.
"""


configfile: "params.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/swap.smk"
include: "workflow/rules/rmse.smk"
include: "workflow/rules/bn_shift.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.output,
        rules.figures.output,
        rules.transfer_table.output,
        TABLES,
