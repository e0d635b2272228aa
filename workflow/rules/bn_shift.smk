"""bn_shift: how swapping a BN parameter moves the layer's output.

REQUIRED INPUTS: checkpoints of every (target, source) pair
OUTPUTS: results/tables/bn_shift.csv
"""


rule bn_shift:
    input:
        targets=[
            checkpoint(n, t, s)
            for n in config["nets"]
            for t, _ in SWAPS
            for s in SEEDS
        ],
        sources=[
            checkpoint(n, m, s)
            for n in config["nets"]
            for _, m in SWAPS
            for s in SEEDS
        ],
    output:
        table("results/tables/bn_shift.csv"),
    log:
        "logs/bn_shift.log",
    conda:
        "../../environment.yml"
    params:
        code=code("bn_shift"),
    message:
        "bn_shift: shift and scale of every BN output"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/bn_shift.py"
        " --table {output:q} --targets @<(lines {input.targets:q})"
        " --sources @<(lines {input.sources:q}) --code {params.code:q} 2>&1 | tee {log:q}"
