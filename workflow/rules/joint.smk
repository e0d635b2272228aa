"""joint: swap what belongs together, cumulatively over layers, and with re-estimated BN statistics.

Run by `snakemake evidence`, not by default.
REQUIRED INPUTS: checkpoints of target and source, the target's processed data
OUTPUTS: results/evidence/joint.csv, joint_effects.csv, joint.svg and .png
"""


rule joint:
    input:
        target=lambda w: checkpoint(w.net, w.target, w.seed),
        source=lambda w: checkpoint(w.net, w.source, w.seed),
        data=lambda w: data_of(w.target),
    output:
        "results/evidence/joint/{net}/{target}/{source}/seed{seed}.csv",
    log:
        "logs/joint/{net}/{target}/{source}/seed{seed}.log",
    benchmark:
        "benchmarks/joint/{net}/{target}/{source}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("joint"),
        json=parameters("nets.{net}", "compute", "swap.engine", "swap.memory_mb"),
    message:
        "joint: {wildcards.net}, several tensors of {wildcards.target} from {wildcards.source}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/joint.py --net {wildcards.net:q} --target {wildcards.target:q}"
        " --source {wildcards.source:q} --seed {wildcards.seed:q} --target-checkpoint {input.target:q}"
        " --source-checkpoint {input.source:q} --data {input.data:q} --params {params.json:q}"
        " --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule joint_table:
    input:
        parts=[
            f"results/evidence/joint/{net}/{target}/{source}/seed{seed}.csv"
            for net in config["nets"]
            for target, source in SWAPS
            for seed in SEEDS
        ],
        swaps="results/swap/mean_dice.csv",
    output:
        evidence_files("joint.csv", "joint_effects.csv", "joint.svg", "joint.png"),
    log:
        "logs/joint_table.log",
    conda:
        "../../environment.yml"
    params:
        code=code("joint_table"),
        json=parameters("verdict", "figures"),
    message:
        "joint_table: what fits alone, and what fits together"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/joint_table.py"
        " --params {params.json:q} --swaps {input.swaps:q} --out results/evidence"
        " --parts @<(lines {input.parts:q}) --code {params.code:q} 2>&1 | tee {log:q}"
