"""factorial: {networks} x {shared, independent initialisation}: is it the short connection or the initialisation?

Run by `snakemake evidence`, not by default. Trains and sweeps each network again under the initialisation that its base
models do not have.
REQUIRED INPUTS: processed data; sweeps and random control of the run itself
OUTPUTS: results/evidence/factorial.csv, effects.csv, factorial.svg and .png
"""

OTHER = "results/evidence/factorial"


use rule base as factorial_base with:
    output:
        checkpoint=f"{OTHER}/checkpoints/{{net}}/{{model}}/seed{{seed}}.safetensors",
        table=f"{OTHER}/base/{{net}}/{{model}}/seed{{seed}}.csv",
        curve=f"{OTHER}/curves/{{net}}/{{model}}/seed{{seed}}.jsonl",
    log:
        f"logs/factorial_base/{{net}}/{{model}}/seed{{seed}}.log",
    benchmark:
        f"benchmarks/factorial_base/{{net}}/{{model}}/seed{{seed}}.tsv"
    params:
        code=code("base"),
        json=other_start,
    message:
        "factorial_base: train {wildcards.net} on {wildcards.model} from the other initialisation, seed {wildcards.seed}"


use rule swap as factorial_swap with:
    input:
        target=f"{OTHER}/checkpoints/{{net}}/{{target}}/seed{{seed}}.safetensors",
        source=f"{OTHER}/checkpoints/{{net}}/{{source}}/seed{{seed}}.safetensors",
        data=lambda w: data_of(w.target),
    output:
        f"{OTHER}/swap/{{net}}/{{target}}/{{source}}/seed{{seed}}.csv",
    log:
        f"logs/factorial_swap/{{net}}/{{target}}/{{source}}/seed{{seed}}.log",
    benchmark:
        f"benchmarks/factorial_swap/{{net}}/{{target}}/{{source}}/seed{{seed}}.tsv"
    message:
        "factorial_swap: {wildcards.net}, {wildcards.target} from {wildcards.source}, other initialisation, seed {wildcards.seed}"


use rule control as factorial_control with:
    input:
        target=f"{OTHER}/checkpoints/{{net}}/{{target}}/seed{{seed}}.safetensors",
        other=[],
        data=lambda w: data_of(w.target),
    output:
        f"{OTHER}/controls/{{net}}/{{target}}/{{control}}/seed{{seed}}.csv",
    log:
        f"logs/factorial_control/{{net}}/{{target}}/{{control}}/seed{{seed}}.log",
    benchmark:
        f"benchmarks/factorial_control/{{net}}/{{target}}/{{control}}/seed{{seed}}.tsv"
    message:
        "factorial_control: {wildcards.net}, {wildcards.target} from its {wildcards.control}, other initialisation, seed {wildcards.seed}"


rule factorial:
    input:
        own=factorial_parts("results/swap", "results/evidence/controls"),
        other=factorial_parts(f"{OTHER}/swap", f"{OTHER}/controls"),
    output:
        evidence_files("factorial.csv", "effects.csv", "factorial.svg", "factorial.png"),
    log:
        "logs/factorial.log",
    conda:
        "../../environment.yml"
    params:
        code=code("factorial"),
        json=parameters("verdict", "figures"),
        inits=json.dumps(INITS, sort_keys=True),
    message:
        "factorial: initialisation against architecture"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/factorial.py"
        " --params {params.json:q} --inits {params.inits:q}"
        " --out results/evidence --own @<(lines {input.own:q}) --other @<(lines {input.other:q}) --code {params.code:q} 2>&1 | tee {log:q}"
