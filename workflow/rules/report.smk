"""report: one self-contained page that tells the story.

REQUIRED INPUTS: all tables and figures
OUTPUTS: results/report.html
"""


rule report:
    input:
        tables=TABLES,
        figures=rules.figures.output,
        code=code("report"),
        templates=templates("report.html.j2"),
    output:
        "results/report.html",
    log:
        "logs/report.log",
    conda:
        "../../environment.yml"
    params:
        json=section(config, *sorted(config)),
    message:
        "report: results/report.html"
    shell:
        "python workflow/scripts/report.py --params {params.json:q} --figures results/figures"
        " --report {output} --tables {input.tables} 2>&1 | tee {log}"
