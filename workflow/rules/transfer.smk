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
        code=code("transfer"),
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
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=240,
    params:
        json=lambda w: section(
            config,
            f"nets.{w.net}",
            "init",
            "compute",
            "transfer.target",
            "transfer.plan",
            "transfer.reuse_final",
            "transfer.train",
        ),
    message:
        "transfer: {wildcards.net}, {wildcards.samples} patients, {wildcards.arm} {wildcards.source},"
        " seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/transfer.py --net {wildcards.net} --samples {wildcards.samples}"
        " --arm {wildcards.arm} --source {wildcards.source} --seed {wildcards.seed}"
        " --data {input.data} --checkpoint '{input.source}' --verdict '{input.verdict}'"
        " --params {params.json:q} --table {output} 2>&1 | tee {log}"


rule transfer_table:
    input:
        parts=transfer_parts,
        data="results/tables/data.csv",
        code=code("transfer_table"),
    output:
        table="results/tables/transfer.csv",
        markdown="results/tables/transfer.md",
        latex="results/tables/transfer.tex",
    log:
        "logs/transfer_table.log",
    conda:
        "../../environment.yml"
    message:
        "transfer_table: the paper's table, its numbers beside ours"
    shell:
        "python workflow/scripts/transfer_table.py --table {output.table} --markdown {output.markdown}"
        " --latex {output.latex} --data {input.data} --parts {input.parts} 2>&1 | tee {log}"
