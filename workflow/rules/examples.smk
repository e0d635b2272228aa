"""examples: image, truth and prediction of the target's best, median and worst patient.

REQUIRED INPUTS: the target's checkpoint of the first seed, its Dice by patient, its processed data
OUTPUTS: results/figures/examples_{net}.svg and .png
"""


rule examples:
    input:
        checkpoint=lambda w: checkpoint(w.net, config["transfer"]["target"], SEEDS[0]),
        dice=f"results/base/{{net}}/{config['transfer']['target']}/seed{SEEDS[0]}.csv",
        data=data_of(config["transfer"]["target"]),
    output:
        figure("results/figures/examples_{net}.svg", "Example segmentations, {net}"),
        "results/figures/examples_{net}.png",
    log:
        "logs/examples/{net}.log",
    conda:
        "../../environment.yml"
    params:
        code=code("examples"),
        json=parameters("nets.{net}", "figures"),
    message:
        "examples: segmentations by {wildcards.net}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/examples.py --net {wildcards.net:q}"
        " --checkpoint {input.checkpoint:q} --data {input.data:q} --dice {input.dice:q} --params {params.json:q}"
        " --out results/figures --code {params.code:q} 2>&1 | tee {log:q}"
