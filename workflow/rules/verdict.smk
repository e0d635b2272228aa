"""verdict: which pairs can be reused, and is the network reusable (an RN)?

REQUIRED INPUTS: Dice of every swap by patient
OUTPUTS: results/tables/verdict.csv, results/tables/network.csv
"""


rule verdict:
    input:
        drops="results/swap/mean_dice.csv",
    output:
        verdict=table("results/tables/verdict.csv"),
        network=table("results/tables/network.csv"),
    log:
        "logs/verdict.log",
    conda:
        "../../environment.yml"
    params:
        code=code("verdict"),
        json=parameters("verdict"),
    message:
        "verdict: reusable layers, reusable networks"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/verdict.py"
        " --params {params.json:q} --drops {input.drops:q}"
        " --verdict {output.verdict:q} --network {output.network:q} --code {params.code:q} 2>&1 | tee {log:q}"
