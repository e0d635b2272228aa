"""controls: the same sweeps from sources whose outcome is known in advance, and the real ones against them.

Run by `snakemake evidence`, not by default.
REQUIRED INPUTS: checkpoints of target, of its other seeds and of its sources; the target's processed data; the swaps
OUTPUTS: results/evidence/controls.csv, relative.csv, controls.svg and .png
"""


rule control:
    input:
        target=lambda w: checkpoint(w.net, w.target, w.seed),
        other=control_other,
        data=lambda w: data_of(w.target),
    output:
        "results/evidence/controls/{net}/{target}/{control}/seed{seed}.csv",
    log:
        "logs/control/{net}/{target}/{control}/seed{seed}.log",
    benchmark:
        "benchmarks/control/{net}/{target}/{control}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("control"),
        json=parameters(
            "nets.{net}",
            "init",
            "compute",
            "swap.engine",
            "swap.memory_mb",
        ),
    message:
        "control: {wildcards.net}, every layer of {wildcards.target} from its {wildcards.control}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/control.py --net {wildcards.net:q} --target {wildcards.target:q}"
        " --control {wildcards.control:q} --seed {wildcards.seed:q} --checkpoint {input.target:q}"
        " --other {input.other:q} --data {input.data:q} --params {params.json:q} --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule controls:
    input:
        parts=control_parts,
        swaps="results/swap/mean_dice.csv",
    output:
        evidence_files("controls.csv", "relative.csv", "controls.svg", "controls.png"),
    log:
        "logs/controls.log",
    conda:
        "../../environment.yml"
    params:
        code=code("controls"),
        json=parameters("verdict", "figures"),
    message:
        "controls: every swap and its controls"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/controls.py"
        " --params {params.json:q} --swaps {input.swaps:q} --out results/evidence"
        " --parts @<(lines {input.parts:q}) --code {params.code:q} 2>&1 | tee {log:q}"
