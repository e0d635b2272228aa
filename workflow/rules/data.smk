"""data: raw images of each set, as distributed -> one processed form, checked.

REQUIRED INPUTS: the folders named in params.yaml (datasets.*.root), or nothing for phantoms
OUTPUTS: data/processed/{dataset}.npz, results/tables/data.csv
"""


rule phantom:
    output:
        "data/phantom/{dataset}.sha256",
    log:
        "logs/phantom/{dataset}.log",
    wildcard_constraints:
        dataset="|".join(PHANTOMS),
    conda:
        "../../environment.yml"
    params:
        code=code("phantom"),
        json=parameters(
            "datasets.{dataset}.format",
            "datasets.{dataset}.root",
            "datasets.{dataset}.phantom",
        ),
    message:
        "phantom: draw the cohort {wildcards.dataset}"
    shell:
        "python workflow/scripts/phantom.py --dataset {wildcards.dataset:q} --params {params.json:q}"
        " --manifest {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule prepare:
    input:
        raw=raw_data,
    output:
        "data/processed/{dataset}.npz",
    log:
        "logs/prepare/{dataset}.log",
    conda:
        "../../environment.yml"
    params:
        code=code("prepare"),
        json=parameters("datasets.{dataset}"),
    message:
        "prepare: read, check and resample {wildcards.dataset}"
    shell:
        "python workflow/scripts/prepare.py --dataset {wildcards.dataset:q} --params {params.json:q}"
        " --data {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule data_table:
    input:
        data=expand("data/processed/{dataset}.npz", dataset=config["datasets"]),
    output:
        table("results/tables/data.csv"),
    log:
        "logs/data_table.log",
    conda:
        "../../environment.yml"
    params:
        code=code("data_table"),
    message:
        "data_table: what each set holds"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/data_table.py"
        " --table {output:q} --data @<(lines {input.data:q}) --code {params.code:q} 2>&1 | tee {log:q}"
