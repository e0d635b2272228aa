"""swap: replace each (kind, layer) pair of a target by a source's, in turn, and measure Dice again.

REQUIRED INPUTS: checkpoints of target and source, the target's processed data
OUTPUTS: results/tables/swap.csv (and one row per patient in results/swap/)
"""


rule swap:
    input:
        target=lambda w: checkpoint(w.net, w.target, w.seed),
        source=lambda w: checkpoint(w.net, w.source, w.seed),
        data=lambda w: data_of(w.target),
    output:
        "results/swap/{net}/{target}/{source}/seed{seed}.csv",
    log:
        "logs/swap/{net}/{target}/{source}/seed{seed}.log",
    benchmark:
        "benchmarks/swap/{net}/{target}/{source}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("swap"),
        json=parameters("nets.{net}", "compute", "swap.engine", "swap.memory_mb"),
    message:
        "swap: {wildcards.net}, every layer of {wildcards.target} from {wildcards.source}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/swap.py --net {wildcards.net:q} --target {wildcards.target:q}"
        " --source {wildcards.source:q} --seed {wildcards.seed:q} --target-checkpoint {input.target:q}"
        " --source-checkpoint {input.source:q} --data {input.data:q} --params {params.json:q}"
        " --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule swap_table:
    input:
        parts=[
            f"results/swap/{net}/{target}/{source}/seed{seed}.csv"
            for net in config["nets"]
            for target, source in SWAPS
            for seed in SEEDS
        ],
    output:
        table=table("results/tables/swap.csv"),
        drops="results/swap/mean_dice.csv",
    log:
        "logs/swap_table.log",
    conda:
        "../../environment.yml"
    params:
        code=code("swap_table"),
    message:
        "swap_table: means over patients"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/swap_table.py"
        " --table {output.table:q} --drops {output.drops:q}"
        " --parts @<(lines {input.parts:q}) --code {params.code:q} 2>&1 | tee {log:q}"
