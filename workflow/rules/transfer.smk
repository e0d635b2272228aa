"""transfer: train the target with few patients, from scratch or from a source; the paper's table.

REQUIRED INPUTS: checkpoints of the sources, the target's processed data, the plan of reuse
OUTPUTS: results/tables/transfer.csv, transfer.md, transfer.tex
"""


rule transfer:
    input:
        data=data_of(config["transfer"]["target"]),
        source=transfer_source,
        verdict=transfer_plan,
        checked=ancient("results/tables/data.csv"),
    output:
        "results/transfer/{net}/n{samples}/{arm}/{source}/seed{seed}.csv",
    log:
        "logs/transfer/{net}/n{samples}/{arm}/{source}/seed{seed}.log",
    benchmark:
        "benchmarks/transfer/{net}/n{samples}/{arm}/{source}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("transfer"),
        json=parameters(
            "nets.{net}",
            "init",
            "compute",
            "transfer.target",
            "transfer.plan",
            "transfer.reuse_final",
            "transfer.frozen_statistics",
            "transfer.train",
        ),
    message:
        "transfer: {wildcards.net}, {wildcards.samples} patients, {wildcards.arm} {wildcards.source},"
        " seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/transfer.py --net {wildcards.net:q} --samples {wildcards.samples:q}"
        " --arm {wildcards.arm:q} --source {wildcards.source:q} --seed {wildcards.seed:q}"
        " --data {input.data:q} --checkpoint {input.source:q} --verdict {input.verdict:q}"
        " --params {params.json:q} --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule transfer_table:
    input:
        parts=transfer_parts,
        data="results/tables/data.csv",
    output:
        table=table("results/tables/transfer.csv"),
        markdown="results/tables/transfer.md",
        latex="results/tables/transfer.tex",
    log:
        "logs/transfer_table.log",
    conda:
        "../../environment.yml"
    params:
        code=code("transfer_table"),
    message:
        "transfer_table: the paper's table, its numbers and ours"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/transfer_table.py"
        " --table {output.table:q} --markdown {output.markdown:q}"
        " --latex {output.latex:q} --data {input.data:q} --parts @<(lines {input.parts:q}) --code {params.code:q} 2>&1 | tee {log:q}"
