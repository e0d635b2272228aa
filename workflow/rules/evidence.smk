"""evidence: one page of what holds of the paper, what does not, and at which n.

Run by `snakemake evidence`, not by default.
REQUIRED INPUTS: tables and figures of controls, joint, screen, factorial and ranking
OUTPUTS: results/evidence/evidence.html, evidence.md, findings.csv
"""


rule evidence:
    input:
        *rules.controls.output,
        *rules.joint_table.output,
        *rules.screen_table.output,
        *rules.factorial.output,
        *rules.ranking.output,
        data="results/tables/data.csv",
        templates=templates("evidence.html.j2"),
    output:
        evidence_files("evidence.html", "evidence.md", "findings.csv"),
    log:
        "logs/evidence.log",
    conda:
        "../../environment.yml"
    params:
        code=code("evidence"),
        json=parameters("verdict", "evidence", "transfer.target"),
    message:
        "evidence: results/evidence/evidence.html"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/evidence.py"
        " --params {params.json:q} --data {input.data:q} --folder results/evidence"
        " --code {params.code:q} 2>&1 | tee {log:q}"
