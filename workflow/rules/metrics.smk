"""metrics: the run in few numbers, for `dvc metrics` and `dvc plots`.

REQUIRED INPUTS: tables
OUTPUTS: results/metrics.json, results/plots/transfer.csv, results/plots/reuse.csv
"""


rule metrics:
    input:
        tables=[
            f"results/tables/{name}.csv"
            for name in ("base", "network", "transfer", "claims")
        ],
        code=code("metrics"),
    output:
        metrics="results/metrics.json",
        plots=["results/plots/transfer.csv", "results/plots/reuse.csv"],
    log:
        "logs/metrics.log",
    conda:
        "../../environment.yml"
    message:
        "metrics: results/metrics.json"
    shell:
        "python workflow/scripts/metrics.py --metrics {output.metrics} --plots results/plots"
        " --tables {input.tables} 2>&1 | tee {log}"
