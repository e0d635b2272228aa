"""claims: the paper's eight claims, each with a computed answer.

REQUIRED INPUTS: all tables; Dice of every swap by patient
OUTPUTS: results/tables/claims.csv
"""


rule claims:
    input:
        tables=[table for table in TABLES if "claims" not in table],
        drops="results/swap/mean_dice.csv",
    output:
        table("results/tables/claims.csv"),
    log:
        "logs/claims.log",
    conda:
        "../../environment.yml"
    params:
        code=code("claims"),
        target=config["transfer"]["target"],
        json=section(config, "verdict"),
    message:
        "claims: what holds, what does not"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/claims.py"
        " --target {params.target:q} --params {params.json:q} --table {output:q}"
        " --tables @<(lines {input.tables:q} {input.drops:q}) --code {params.code:q} 2>&1 | tee {log:q}"
