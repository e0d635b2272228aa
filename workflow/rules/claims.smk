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
    message:
        "claims: what holds, what does not"
    shell:
        "python workflow/scripts/claims.py --table {output} --tables {input.tables} 2>&1 | tee {log}"
