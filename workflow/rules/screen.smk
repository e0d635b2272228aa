"""screen: does what is known of a swap before it is made tell what it does?

Run by `snakemake evidence`, not by default.
REQUIRED INPUTS: checkpoints of target and sources, the target's processed data, the verdicts
OUTPUTS: results/evidence/screen.csv, screen.svg and .png
"""


rule screen:
    input:
        target=lambda w: checkpoint(w.net, w.target, w.seed),
        sources=lambda w: [
            checkpoint(w.net, source, w.seed)
            for source in config["swap"]["sources"][w.target]
        ],
        data=lambda w: data_of(w.target),
    output:
        "results/evidence/screen/{net}/{target}/seed{seed}.csv",
    log:
        "logs/screen/{net}/{target}/seed{seed}.log",
    benchmark:
        "benchmarks/screen/{net}/{target}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("screen"),
        json=parameters("nets.{net}", "compute"),
    message:
        "screen: {wildcards.net}, every swap of {wildcards.target} by one backward pass, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/screen.py --net {wildcards.net:q} --target {wildcards.target:q}"
        " --seed {wildcards.seed:q} --target-checkpoint {input.target:q} --data {input.data:q}"
        " --params {params.json:q} --table {output:q} --sources @<(lines {input.sources:q})"
        " --code {params.code:q} 2>&1 | tee {log:q}"


rule screen_table:
    input:
        parts=[
            f"results/evidence/screen/{net}/{target}/seed{seed}.csv"
            for net in config["nets"]
            for target in config["swap"]["sources"]
            for seed in SEEDS
        ],
        verdict="results/tables/verdict.csv",
    output:
        evidence_files("screen.csv", "screen.svg", "screen.png"),
    log:
        "logs/screen_table.log",
    conda:
        "../../environment.yml"
    params:
        code=code("screen_table"),
        json=parameters("verdict", "figures"),
    message:
        "screen_table: what tells a verdict before the swap"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/screen_table.py"
        " --params {params.json:q} --verdict {input.verdict:q} --out results/evidence"
        " --parts @<(lines {input.parts:q}) --code {params.code:q} 2>&1 | tee {log:q}"
