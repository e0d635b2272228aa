"""joint: swap what belongs together, layer upon layer, and with BN statistics estimated again.

Run by `snakemake evidence`, not by default.
REQUIRED INPUTS: checkpoints of target and source, the target's processed data
OUTPUTS: results/evidence/joint.csv, joint_effects.csv, joint.svg and .png
"""


rule joint:
    input:
        target=lambda w: checkpoint(w.net, w.target, w.seed),
        source=lambda w: checkpoint(w.net, w.source, w.seed),
        data=lambda w: data_of(w.target),
        code=code("joint"),
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
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=120,
    params:
        json=lambda w: section(
            config, f"nets.{w.net}", "compute", "swap.engine", "swap.memory_mb"
        ),
    message:
        "joint: {wildcards.net}, several tensors of {wildcards.target} from {wildcards.source}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/joint.py --net {wildcards.net} --target {wildcards.target}"
        " --source {wildcards.source} --seed {wildcards.seed} --target-checkpoint {input.target}"
        " --source-checkpoint {input.source} --data {input.data} --params {params.json:q}"
        " --table {output} 2>&1 | tee {log}"


rule joint_table:
    input:
        parts=[
            f"results/evidence/joint/{net}/{target}/{source}/seed{seed}.csv"
            for net in config["nets"]
            for target, source in SWAPS
            for seed in SEEDS
        ],
        swaps="results/swap/mean_dice.csv",
        code=code("joint_table"),
    output:
        expand(
            "results/evidence/{name}",
            name=["joint.csv", "joint_effects.csv", "joint.svg", "joint.png"],
        ),
    log:
        "logs/joint_table.log",
    conda:
        "../../environment.yml"
    params:
        json=section(config, "verdict", "figures"),
    message:
        "joint_table: what fits alone, and what fits together"
    shell:
        "python workflow/scripts/joint_table.py --params {params.json:q} --swaps {input.swaps} --out results/evidence"
        " --parts {input.parts} 2>&1 | tee {log}"
