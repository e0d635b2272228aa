"""ranking: does what is measured of a source predict what it gains?

Run by `snakemake evidence`, not by default.
REQUIRED INPUTS: checkpoints of the target and of every source; the target's processed data
OUTPUTS: results/evidence/scores.csv, gain.csv, ranking.csv, layers.csv, seconds.csv, ranking.svg and .png
"""


rule transferability:
    input:
        target=lambda w: checkpoint(w.net, config["transfer"]["target"], w.seed),
        source=lambda w: checkpoint(w.net, w.source, w.seed),
        data=data_of(config["transfer"]["target"]),
        code=code("transferability"),
    output:
        scores="results/evidence/transferability/{net}/{source}/seed{seed}.csv",
        layers="results/evidence/transferability/{net}/{source}/seed{seed}.layers.csv",
        seconds="results/evidence/transferability/{net}/{source}/seed{seed}.seconds",
    log:
        "logs/transferability/{net}/{source}/seed{seed}.log",
    benchmark:
        "benchmarks/transferability/{net}/{source}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=120,
    params:
        json=lambda w: section(
            config,
            f"nets.{w.net}",
            "init",
            "compute",
            "swap.engine",
            "swap.memory_mb",
            "evidence.samples",
            "evidence.seeds",
            "evidence.pixels",
        ),
    message:
        "transferability: {wildcards.net}, what can be said of {wildcards.source} beforehand, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/transferability.py --net {wildcards.net} --source {wildcards.source}"
        " --seed {wildcards.seed} --target-checkpoint {input.target} --source-checkpoint {input.source}"
        " --data {input.data} --params {params.json:q} --table {output.scores} --layers {output.layers}"
        " --seconds {output.seconds} 2>&1 | tee {log}"


rule gain:
    input:
        data=data_of(config["transfer"]["target"]),
        source=lambda w: (
            [] if w.source == "none" else checkpoint(w.net, w.source, w.source_seed)
        ),
        checked=ancient("results/tables/data.csv"),
        code=code("gain"),
    output:
        table="results/evidence/gain/{net}/{arm}/{source}-{source_seed}/seed{seed}.csv",
        seconds="results/evidence/gain/{net}/{arm}/{source}-{source_seed}/seed{seed}.seconds",
    log:
        "logs/gain/{net}/{arm}/{source}-{source_seed}/seed{seed}.log",
    benchmark:
        "benchmarks/gain/{net}/{arm}/{source}-{source_seed}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=240,
    params:
        json=lambda w: section(
            config,
            f"nets.{w.net}",
            "init",
            "compute",
            "transfer.target",
            "transfer.train",
            "evidence.samples",
        ),
    message:
        "gain: {wildcards.net}, {wildcards.arm} from {wildcards.source} of seed {wildcards.source_seed}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/gain.py --net {wildcards.net} --arm {wildcards.arm}"
        " --source {wildcards.source} --source-seed {wildcards.source_seed} --seed {wildcards.seed}"
        " --data {input.data} --checkpoint '{input.source}' --params {params.json:q}"
        " --table {output.table} --seconds {output.seconds} 2>&1 | tee {log}"


rule ranking:
    input:
        gains=gain_parts("csv"),
        gain_seconds=gain_parts("seconds"),
        scores=[
            f"results/evidence/transferability/{net}/{source}/seed{seed}.{kind}"
            for net, source, seed in ranked_sources()
            for kind in ("csv", "layers.csv", "seconds")
        ],
        base="results/tables/base.csv",
        data="results/tables/data.csv",
        controls=[
            f"results/evidence/controls/{net}/{config['transfer']['target']}/random/seed{seed}.csv"
            for net in config["evidence"]["nets"]
            for seed in SEEDS
        ],
        code=code("ranking"),
    output:
        expand(
            "results/evidence/{name}",
            name=[
                "scores.csv",
                "gain.csv",
                "ranking.csv",
                "layers.csv",
                "seconds.csv",
                "ranking.svg",
                "ranking.png",
            ],
        ),
    log:
        "logs/ranking.log",
    conda:
        "../../environment.yml"
    params:
        json=section(config, "verdict", "figures"),
    message:
        "ranking: scores against gains"
    shell:
        "python workflow/scripts/ranking.py --params {params.json:q} --base {input.base} --data {input.data}"
        " --out results/evidence --parts {input.gains} {input.gain_seconds} {input.scores} {input.controls}"
        " 2>&1 | tee {log}"
