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
    output:
        metrics="results/metrics.json",
        plots=["results/plots/transfer.csv", "results/plots/reuse.csv"],
    log:
        "logs/metrics.log",
    conda:
        "../../environment.yml"
    params:
        code=code("metrics"),
    message:
        "metrics: results/metrics.json"
    shell:
        "python workflow/scripts/metrics.py --metrics {output.metrics:q} --plots results/plots"
        " --tables @<(lines {input.tables:q}) --code {params.code:q} 2>&1 | tee {log:q}"
