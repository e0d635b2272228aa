"""manifest: what the run was made with, and a hash of every file it made.

REQUIRED INPUTS: every output of the other rules
OUTPUTS: results/manifest.json
"""


rule manifest:
    input:
        files=[
            *rules.data_table.input.data,
            *rules.rmse.input.checkpoints,
            *rules.base_table.input.parts,
            *rules.metrics.input.curves,
            *rules.swap_table.input.parts,
            *transfer_parts(None),
            *TABLES,
            rules.transfer_table.output.markdown,
            rules.transfer_table.output.latex,
            *rules.figures.output,
            *EXAMPLES,
            *rules.metrics.output,
            rules.report.output[0],
        ],
    output:
        "results/manifest.json",
    log:
        "logs/manifest.log",
    conda:
        "../../environment.yml"
    params:
        code=code("manifest"),
        json=parameters(*RECORDED),
    message:
        "manifest: results/manifest.json"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/manifest.py"
        " --params {params.json:q} --manifest {output:q}"
        " --files @<(lines {input.files:q}) --code {params.code:q} 2>&1 | tee {log:q}"
