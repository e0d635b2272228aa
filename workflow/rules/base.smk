"""base: train every network on every data set, task and seed.

REQUIRED INPUTS: data/processed/{dataset}.npz, of all sets before the first training starts
OUTPUTS: results/checkpoints/{net}/{model}/seed{seed}.safetensors, results/curves/{net}/{model}/seed{seed}.jsonl,
results/tables/base.csv
"""


rule base:
    input:
        data=lambda w: data_of(w.model),
        # Every data set is read and checked before any training; but a change of one set
        # re-trains only the models of that set.
        checked=ancient("results/tables/data.csv"),
    output:
        checkpoint="results/checkpoints/{net}/{model}/seed{seed}.safetensors",
        table="results/base/{net}/{model}/seed{seed}.csv",
        curve="results/curves/{net}/{model}/seed{seed}.jsonl",
    log:
        "logs/base/{net}/{model}/seed{seed}.log",
    benchmark:
        "benchmarks/base/{net}/{model}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("base"),
        json=parameters("nets.{net}", "init", "base", "compute"),
    message:
        "base: train {wildcards.net} on {wildcards.model}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/base.py --net {wildcards.net:q} --model {wildcards.model:q}"
        " --seed {wildcards.seed:q} --data {input.data:q} --params {params.json:q}"
        " --checkpoint {output.checkpoint:q} --table {output.table:q} --curve {output.curve:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


rule base_table:
    input:
        parts=expand(
            "results/base/{net}/{model}/seed{seed}.csv",
            net=config["nets"],
            model=MODELS,
            seed=SEEDS,
        ),
    output:
        table("results/tables/base.csv"),
    log:
        "logs/base_table.log",
    conda:
        "../../environment.yml"
    params:
        code=code("base_table"),
    message:
        "base_table: how good the base models are"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/base_table.py"
        " --table {output:q} --parts @<(lines {input.parts:q}) --code {params.code:q} 2>&1 | tee {log:q}"
