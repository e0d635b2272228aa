"""verdict: which pairs can be reused, and is the network reusable (an RN)?

REQUIRED INPUTS: Dice of every swap by patient
OUTPUTS: results/tables/verdict.csv, results/tables/network.csv
"""


rule verdict:
    input:
        drops="results/swap/mean_dice.csv",
        code=code("verdict"),
    output:
        verdict="results/tables/verdict.csv",
        network="results/tables/network.csv",
    log:
        "logs/verdict.log",
    conda:
        "../../environment.yml"
    params:
        json=section(config, "verdict"),
    message:
        "verdict: reusable layers, reusable networks"
    shell:
        "python workflow/scripts/verdict.py --params {params.json:q} --drops {input.drops}"
        " --verdict {output.verdict} --network {output.network} 2>&1 | tee {log}"
