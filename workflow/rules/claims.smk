"""claims: the paper's eight claims, each with a computed answer.

REQUIRED INPUTS: all tables
OUTPUTS: results/tables/claims.csv
"""


rule claims:
    input:
        tables=[table for table in TABLES if "claims" not in table],
        code=code("claims"),
    output:
        "results/tables/claims.csv",
    log:
        "logs/claims.log",
    conda:
        "../../environment.yml"
    params:
        target=config["transfer"]["target"],
    message:
        "claims: what holds, what does not"
    shell:
        "python workflow/scripts/claims.py --target {params.target} --table {output} --tables {input.tables} 2>&1 | tee {log}"
