"""examples: image, truth and prediction of the target's best, median and worst patient, before and after swaps.

REQUIRED INPUTS: the target's checkpoint of the first seed and that of its first source, its Dice by patient, its
processed data, the verdicts
OUTPUTS: results/figures/examples_{net}.svg and .png
"""

SHOWN_TARGET = config["transfer"]["target"]
SHOWN_SOURCE = config["swap"]["sources"][SHOWN_TARGET][0]


rule examples:
    input:
        checkpoint=lambda w: checkpoint(w.net, SHOWN_TARGET, SEEDS[0]),
        source=lambda w: checkpoint(w.net, SHOWN_SOURCE, SEEDS[0]),
        dice=f"results/base/{{net}}/{SHOWN_TARGET}/seed{SEEDS[0]}.csv",
        data=data_of(SHOWN_TARGET),
        verdict="results/tables/verdict.csv",
    output:
        figure("results/figures/examples_{net}.svg", "Example segmentations, {net}"),
        "results/figures/examples_{net}.png",
    log:
        "logs/examples/{net}.log",
    conda:
        "../../environment.yml"
    params:
        code=code("examples"),
        target=SHOWN_TARGET,
        source=SHOWN_SOURCE,
        json=parameters("nets.{net}", "figures"),
    message:
        "examples: segmentations by {wildcards.net}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/examples.py --net {wildcards.net:q}"
        " --target {params.target:q} --source {params.source:q} --checkpoint {input.checkpoint:q}"
        " --source-checkpoint {input.source:q} --data {input.data:q} --dice {input.dice:q} --verdict {input.verdict:q}"
        " --params {params.json:q} --out results/figures --code {params.code:q} 2>&1 | tee {log:q}"
