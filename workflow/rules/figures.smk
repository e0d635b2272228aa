"""figures: every figure of the paper by its number, and three of ours.

REQUIRED INPUTS: all tables, curves of the base models
OUTPUTS: results/figures/fig03 to fig12, curves, verdict, transfer, and two of each other network; each as SVG and PNG
"""


rule figures:
    input:
        tables=[table for table in TABLES if "claims" not in table],
        curves=CURVES,
    output:
        [
            path
            for name, title in figure_titles(config["nets"]).items()
            for path in (
                figure(f"results/figures/{name}.svg", title),
                f"results/figures/{name}.png",
            )
        ],
    log:
        "logs/figures.log",
    conda:
        "../../environment.yml"
    params:
        code=code("figures"),
        json=parameters("figures", "verdict", "transfer.target"),
    message:
        "figures: draw them all"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/figures.py"
        " --params {params.json:q} --out results/figures"
        " --tables @<(lines {input.tables:q}) --curves @<(lines {input.curves:q}) --code {params.code:q} 2>&1 | tee {log:q}"
