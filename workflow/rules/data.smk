"""data: raw images of each set, as distributed -> one processed form, checked.

REQUIRED INPUTS: the folders named in params.yaml (datasets.*.root), or nothing for phantoms
OUTPUTS: data/processed/{dataset}.npz, results/tables/data.csv
"""


rule phantom:
    input:
        code=code("phantom"),
    output:
        "data/phantom/{dataset}.sha256",
    log:
        "logs/phantom/{dataset}.log",
    wildcard_constraints:
        dataset="|".join(PHANTOMS),
    conda:
        "../../environment.yml"
    params:
        json=lambda w: section(
            config,
            f"datasets.{w.dataset}.format",
            f"datasets.{w.dataset}.root",
            f"datasets.{w.dataset}.phantom",
        ),
    message:
        "phantom: draw the cohort {wildcards.dataset}"
    shell:
        "python workflow/scripts/phantom.py --dataset {wildcards.dataset} --params {params.json:q}"
        " --manifest {output} 2>&1 | tee {log}"


rule prepare:
    input:
        raw=raw_data,
        code=code("prepare"),
    output:
        "data/processed/{dataset}.npz",
    log:
        "logs/prepare/{dataset}.log",
    conda:
        "../../environment.yml"
    params:
        json=lambda w: section(config, f"datasets.{w.dataset}"),
    message:
        "prepare: read, check and resample {wildcards.dataset}"
    shell:
        "python workflow/scripts/prepare.py --dataset {wildcards.dataset} --params {params.json:q}"
        " --data {output} 2>&1 | tee {log}"


rule data_table:
    input:
        data=expand("data/processed/{dataset}.npz", dataset=config["datasets"]),
        code=code("data_table"),
    output:
        "results/tables/data.csv",
    log:
        "logs/data_table.log",
    conda:
        "../../environment.yml"
    message:
        "data_table: what each set holds"
    shell:
        "python workflow/scripts/data_table.py --table {output} --data {input.data} 2>&1 | tee {log}"
