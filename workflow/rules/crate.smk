"""crate: the run as a Workflow Run RO-Crate, to be deposited or handed on.

Run by `snakemake crate`, not by default.
REQUIRED INPUTS: results/manifest.json and every file that it lists
OUTPUTS: results/run.crate.zip
"""


rule crate:
    input:
        files=rules.manifest.input.files,
        manifest=rules.manifest.output[0],
    output:
        "results/run.crate.zip",
    log:
        "logs/crate.log",
    conda:
        "../../environment.yml"
    params:
        code=code("crate"),
    message:
        "crate: results/run.crate.zip"
    shell:
        "python -m prrmse.run.warm --if-running workflow/scripts/crate.py"
        " --manifest {input.manifest:q} --crate {output:q} --code {params.code:q}"
        " 2>&1 | tee {log:q}"
