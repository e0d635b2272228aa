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
        code=code("bn_shift"),
    output:
        "results/tables/bn_shift.csv",
    log:
        "logs/bn_shift.log",
    conda:
        "../../environment.yml"
    message:
        "bn_shift: shift and scale of every BN output"
    shell:
        "python workflow/scripts/bn_shift.py --table {output} --targets {input.targets}"
        " --sources {input.sources} 2>&1 | tee {log}"
