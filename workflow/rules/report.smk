"""report: one self-contained page with the results.

REQUIRED INPUTS: all tables and figures
OUTPUTS: results/report.html
"""


rule report:
    input:
        tables=TABLES,
        figures=rules.figures.output,
        examples=EXAMPLES,
        templates=templates("report.html.j2"),
    output:
        report("results/report.html", caption="../report/report.rst", category="Report"),
    log:
        "logs/report.log",
    conda:
        "../../environment.yml"
    params:
        code=code("report"),
        json=parameters(*RECORDED),
    message:
        "report: results/report.html"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/report.py"
        " --params {params.json:q} --figures results/figures"
        " --report {output:q} --tables @<(lines {input.tables:q}) --code {params.code:q} 2>&1 | tee {log:q}"
