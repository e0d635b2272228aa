"""metrics: the run in few numbers, for `dvc metrics` and `dvc plots`.

REQUIRED INPUTS: tables, curves of the base models
OUTPUTS: results/metrics.json, results/plots/transfer.csv, reuse.csv and curves.csv
"""


rule metrics:
    input:
        tables=[
            f"results/tables/{name}.csv"
            for name in ("base", "network", "transfer", "claims")
        ],
        curves=CURVES,
    output:
        metrics="results/metrics.json",
        plots=expand("results/plots/{name}.csv", name=["transfer", "reuse", "curves"]),
    log:
        "logs/metrics.log",
    conda:
        "../../environment.yml"
    params:
        code=code("metrics"),
    message:
        "metrics: results/metrics.json"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/metrics.py"
        " --metrics {output.metrics:q} --plots results/plots"
        " --tables @<(lines {input.tables:q}) --curves @<(lines {input.curves:q}) --code {params.code:q} 2>&1 | tee {log:q}"
