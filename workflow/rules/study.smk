"""study: every target in turn, trained with few patients from every start and list of layers; its page.

Run by `snakemake study`, with the section study of the parameters (configs/study.yaml).
REQUIRED INPUTS: processed data with a test split; checkpoints of the base models; sweeps of neighbouring targets
OUTPUTS: results/study/*.csv, study.md and its figures
"""

STUDY_TABLES = (
    "data",
    "base",
    "runs",
    "scores",
    "reuse",
    "guides",
    "search",
    "recipes",
    "contrasts",
    "ancestry",
    "ranking",
    "regrets",
    "no_transfer",
    "answers",
)
STUDY_FIGURES = ("study_gains", "study_ranking", "study_regret")
# Of networks in which targets are connected with their neighbours.
if (config["study"] or {}).get("connect"):
    STUDY_TABLES += (
        "connect",
        "llfc",
        "together",
        "connect_effects",
        "together_effects",
    )
    STUDY_FIGURES += ("study_connect",)


rule study_base:
    input:
        checkpoint=lambda w: checkpoint(w.net, w.model, w.seed),
        data=lambda w: data_of(w.model),
    output:
        "results/study/base/{net}/{model}/seed{seed}.csv",
    log:
        "logs/study_base/{net}/{model}/seed{seed}.log",
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_base"),
        json=parameters("nets.{net}", "compute"),
    message:
        "study_base: {wildcards.net} {wildcards.model} on validation and test patients"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_base.py --net {wildcards.net:q} --model {wildcards.model:q}"
        " --seed {wildcards.seed:q} --data {input.data:q} --params {params.json:q} --checkpoint {input.checkpoint:q}"
        " --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule study_recipe:
    input:
        data=lambda w: data_of(study_section()["recipes"][w.recipe]["model"]),
        checked=ancient("results/tables/data.csv"),
    output:
        checkpoint="results/study/recipes/{recipe}.safetensors",
        table="results/study/recipes/{recipe}.csv",
    log:
        "logs/study_recipe/{recipe}.log",
    benchmark:
        "benchmarks/study_recipe/{recipe}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_recipe"),
        seed=SEEDS[0],
        json=lambda w: parameters(
            f"nets.{study_section()['recipes'][w.recipe]['net']}",
            "init",
            "compute",
            "study.recipes.{recipe}",
        )(w),
    message:
        "study_recipe: {wildcards.recipe}, a base model trained otherwise"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_recipe.py --recipe {wildcards.recipe:q} --seed {params.seed:q}"
        " --data {input.data:q} --params {params.json:q} --checkpoint {output.checkpoint:q} --table {output.table:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


rule study_start:
    input:
        data=lambda w: data_of(w.target),
        checked=ancient("results/tables/data.csv"),
    output:
        checkpoint="results/study/starts/{net}/{target}/{start}/seed{seed}.safetensors",
        table="results/study/runs/{net}/{target}/{start}/none-finetune/seed{seed}.csv",
    log:
        "logs/study_start/{net}/{target}/{start}/seed{seed}.log",
    benchmark:
        "benchmarks/study_start/{net}/{target}/{start}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_start"),
        json=parameters("nets.{net}", "init", "compute", "study.samples", "study.train"),
    message:
        "study_start: {wildcards.net}, {wildcards.target} from {wildcards.start}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_start.py --net {wildcards.net:q} --target {wildcards.target:q}"
        " --start {wildcards.start:q} --seed {wildcards.seed:q} --data {input.data:q} --params {params.json:q}"
        " --checkpoint {output.checkpoint:q} --table {output.table:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule study_run:
    input:
        data=lambda w: data_of(w.target),
        checkpoint=lambda w: checkpoint(w.net, w.source, SEEDS[0]),
        sweep=study_sweep,
        checked=ancient("results/tables/data.csv"),
    output:
        "results/study/runs/{net}/{target}/{source}/{reused}-{mode}/seed{seed}.csv",
    log:
        "logs/study_run/{net}/{target}/{source}/{reused}-{mode}/seed{seed}.log",
    benchmark:
        "benchmarks/study_run/{net}/{target}/{source}/{reused}-{mode}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_run"),
        json=parameters(
            "nets.{net}", "init", "compute", "study.samples", "study.train", "verdict"
        ),
    message:
        "study_run: {wildcards.net}, {wildcards.target} from {wildcards.source}, {wildcards.reused} reused,"
        " {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_run.py --net {wildcards.net:q} --target {wildcards.target:q}"
        " --source {wildcards.source:q} --reused {wildcards.reused:q} --mode {wildcards.mode:q}"
        " --seed {wildcards.seed:q} --data {input.data:q} --checkpoint {input.checkpoint:q} --sweep {input.sweep:q}"
        " --params {params.json:q} --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


use rule swap as study_guide with:
    input:
        target=study_guide_of,
        source=lambda w: checkpoint(w.net, w.source, w.seed),
        data=lambda w: data_of(w.target),
    output:
        "results/study/guides/{net}/{target}/{source}/seed{seed}.csv",
    log:
        "logs/study_guide/{net}/{target}/{source}/seed{seed}.log",
    benchmark:
        "benchmarks/study_guide/{net}/{target}/{source}/seed{seed}.tsv"
    message:
        "study_guide: {wildcards.net}, {wildcards.target} of few patients from {wildcards.source}, seed {wildcards.seed}"


rule study_scores:
    input:
        target=lambda w: checkpoint(w.net, w.target, SEEDS[0]),
        source=lambda w: checkpoint(w.net, w.source, SEEDS[0]),
        data=lambda w: data_of(w.target),
    output:
        "results/study/scores/{net}/{target}/{source}.csv",
    log:
        "logs/study_scores/{net}/{target}/{source}.log",
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_scores"),
        json=parameters(
            "nets.{net}",
            "init",
            "compute",
            "swap.engine",
            "swap.memory_mb",
            "study.samples",
            "study.seeds",
            "evidence.pixels",
        ),
    message:
        "study_scores: {wildcards.net}, what can be said of {wildcards.source} for {wildcards.target} beforehand"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_scores.py --net {wildcards.net:q} --target {wildcards.target:q}"
        " --source {wildcards.source:q} --target-checkpoint {input.target:q} --source-checkpoint {input.source:q}"
        " --data {input.data:q} --params {params.json:q} --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule study_connect:
    input:
        target=lambda w: checkpoint(w.net, w.target, SEEDS[0]),
        source=lambda w: checkpoint(w.net, w.source, SEEDS[0]),
        data=lambda w: data_of(w.target),
    output:
        table="results/study/connect/{net}/{target}/{source}.csv",
        llfc="results/study/connect/{net}/{target}/{source}.llfc.csv",
    log:
        "logs/study_connect/{net}/{target}/{source}.log",
    benchmark:
        "benchmarks/study_connect/{net}/{target}/{source}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_connect"),
        json=parameters("nets.{net}", "compute", "swap.engine", "swap.memory_mb"),
    message:
        "study_connect: {wildcards.net}, {wildcards.target} towards {wildcards.source} in steps"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_connect.py --net {wildcards.net:q}"
        " --target {wildcards.target:q} --source {wildcards.source:q} --target-checkpoint {input.target:q}"
        " --source-checkpoint {input.source:q} --data {input.data:q} --params {params.json:q} --table {output.table:q}"
        " --llfc {output.llfc:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule study_together:
    input:
        target=lambda w: checkpoint(w.net, w.target, SEEDS[0]),
        source=lambda w: checkpoint(w.net, w.source, SEEDS[0]),
        data=lambda w: data_of(w.target),
        sweep=lambda w: f"results/swap/{w.net}/{w.target}/{w.source}/seed{SEEDS[0]}.csv",
    output:
        "results/study/together/{net}/{target}/{source}.csv",
    log:
        "logs/study_together/{net}/{target}/{source}.log",
    benchmark:
        "benchmarks/study_together/{net}/{target}/{source}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_together"),
        json=parameters(
            "nets.{net}", "compute", "swap.engine", "swap.memory_mb", "verdict"
        ),
    message:
        "study_together: {wildcards.net}, how much of {wildcards.source} {wildcards.target} bears at once"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_together.py --net {wildcards.net:q}"
        " --target {wildcards.target:q} --source {wildcards.source:q} --target-checkpoint {input.target:q}"
        " --source-checkpoint {input.source:q} --data {input.data:q} --sweep {input.sweep:q}"
        " --params {params.json:q} --table {output:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule study_search:
    input:
        data=lambda w: data_of(w.target),
        checkpoints=lambda w: [
            checkpoint(w.net, source, SEEDS[0]) for source in study_sources(w.target)
        ],
        checked=ancient("results/tables/data.csv"),
    output:
        "results/study/search/{net}/{target}/seed{seed}.csv",
    log:
        "logs/study_search/{net}/{target}/seed{seed}.log",
    benchmark:
        "benchmarks/study_search/{net}/{target}/seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: config["compute"]["threads"]
    resources:
        gpu=GPU,
    params:
        code=code("study_search"),
        sources=lambda w: study_sources(w.target),
        json=parameters(
            "nets.{net}",
            "init",
            "compute",
            "study.samples",
            "study.train",
            "study.search",
        ),
    message:
        "study_search: {wildcards.net}, the best start for {wildcards.target} by short trainings, seed {wildcards.seed}"
    shell:
        "python -m prrmse.run.warm workflow/scripts/study_search.py --net {wildcards.net:q}"
        " --target {wildcards.target:q} --seed {wildcards.seed:q} --data {input.data:q} --params {params.json:q}"
        " --sources {params.sources:q} --checkpoints {input.checkpoints:q} --table {output:q} --code {params.code:q}"
        " 2>&1 | tee {log:q}"


rule study:
    input:
        searches=study_searches,
        recipes=study_recipes,
        runs=study_runs,
        base=study_bases,
        scores=study_score_parts,
        sweeps=study_ancestry,
        guides=study_guides,
        connected=lambda w: study_pairs("connect"),
        llfc=lambda w: study_pairs("connect", ".llfc.csv"),
        together=lambda w: study_pairs("together"),
        data="results/tables/data.csv",
    output:
        expand(
            "results/study/{name}",
            name=[
                *(f"{n}.csv" for n in STUDY_TABLES),
                *(
                    f"{figure}.{kind}"
                    for figure in STUDY_FIGURES
                    for kind in ("svg", "png")
                ),
                "study.md",
            ],
        ),
    log:
        "logs/study.log",
    conda:
        "../../environment.yml"
    params:
        code=code("study"),
        json=parameters("study", "verdict", "figures"),
    message:
        "study: results/study/study.md"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/study.py"
        " --params {params.json:q} --data {input.data:q} --folder results/study"
        " --runs @<(lines {input.runs:q}) --base @<(lines {input.base:q}) --scores @<(lines {input.scores:q})"
        " --sweeps @<(lines {input.sweeps:q}) --guides @<(lines {input.guides:q})"
        " --searches @<(lines {input.searches:q}) --connected @<(lines {input.connected:q})"
        " --llfc @<(lines {input.llfc:q}) --together @<(lines {input.together:q})"
        " --recipes @<(lines {input.recipes:q}) --code {params.code:q} 2>&1 | tee {log:q}"
