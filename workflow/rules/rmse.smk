"""rmse: distance of every kernel and bias between every two base models of a network.

REQUIRED INPUTS: all checkpoints
OUTPUTS: results/tables/rmse.csv
"""


rule rmse:
    input:
        checkpoints=[
            checkpoint(n, m, s) for n in config["nets"] for m in MODELS for s in SEEDS
        ],
    output:
        table("results/tables/rmse.csv"),
    log:
        "logs/rmse.log",
    conda:
        "../../environment.yml"
    params:
        code=code("rmse"),
    message:
        "rmse: kernels and biases of every two base models"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/rmse.py --table {output:q}"
        " --checkpoints @<(lines {input.checkpoints:q}) --code {params.code:q} 2>&1 | tee {log:q}"
