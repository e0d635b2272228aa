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
    params:
        code=code("transferability"),
        json=parameters(
            "nets.{net}",
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
        "python -m prrmse.run.warm workflow/scripts/transferability.py --net {wildcards.net:q}"
        " --source {wildcards.source:q} --seed {wildcards.seed:q} --target-checkpoint {input.target:q}"
        " --source-checkpoint {input.source:q} --data {input.data:q} --params {params.json:q} --table {output.scores:q} --layers {output.layers:q}"
        " --seconds {output.seconds:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule gain:
    input:
        data=data_of(config["transfer"]["target"]),
        source=lambda w: (
            [] if w.source == "none" else checkpoint(w.net, w.source, w.source_seed)
        ),
        checked=ancient("results/tables/data.csv"),
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
    params:
        code=code("gain"),
        json=parameters(
            "nets.{net}",
            "init",
            "compute",
            "transfer.target",
            "transfer.train",
            "evidence.samples",
        ),
    message:
        "gain: {wildcards.net}, {wildcards.arm} from {wildcards.source} of seed {wildcards.source_seed}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/gain.py --net {wildcards.net:q} --arm {wildcards.arm:q}"
        " --source {wildcards.source:q} --source-seed {wildcards.source_seed:q} --seed {wildcards.seed:q}"
        " --data {input.data:q} --checkpoint {input.source:q} --params {params.json:q}"
        " --table {output.table:q} --seconds {output.seconds:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule ranking:
    input:
        gains=gain_parts("csv"),
        gain_seconds=gain_parts("seconds"),
        scores=score_parts("csv"),
        layers=score_parts("layers.csv"),
        score_seconds=score_parts("seconds"),
        base="results/tables/base.csv",
        data="results/tables/data.csv",
        controls=[
            f"results/evidence/controls/{net}/{config['transfer']['target']}/random/seed{seed}.csv"
            for net in config["evidence"]["nets"]
            for seed in SEEDS
        ],
    output:
        evidence_files(
            "scores.csv",
            "gain.csv",
            "ranking.csv",
            "layers.csv",
            "seconds.csv",
            "ranking.svg",
            "ranking.png",
        ),
    log:
        "logs/ranking.log",
    conda:
        "../../environment.yml"
    params:
        code=code("ranking"),
        json=parameters("verdict", "figures"),
    message:
        "ranking: scores against gains"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/ranking.py"
        " --params {params.json:q} --base {input.base:q} --data {input.data:q}"
        " --out results/evidence --scores @<(lines {input.scores:q}) --layers @<(lines {input.layers:q})"
        " --score-seconds @<(lines {input.score_seconds:q}) --gains @<(lines {input.gains:q})"
        " --gain-seconds @<(lines {input.gain_seconds:q}) --controls @<(lines {input.controls:q})"
        " --code {params.code:q} 2>&1 | tee {log:q}"
