#!/usr/bin/env bash
# The shipped demo (params.yaml) on this machine's GPU, in a copy of the tree: how long it takes, what its tables say.
# For comparison in value, not in bytes, with docs/demo.md, which a CPU printed.
#
# usage: [LIMIT=seconds] bench/gpu_demo.sh FOLDER [targets and options of snakemake...]
#   FOLDER: where demo.md, the log and results.tar.gz (no checkpoints) go. Run again, it goes on where it was stopped.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
copy=${TMPDIR:-/tmp}/prrmse-gpu-demo
mkdir -p "$copy"
cd "$root"
cp -r Snakefile workflow src profiles configs params.yaml environment.yml "$copy"
mkdir -p "$copy/data/raw"
cd "$copy"
# Jobs find this package in src, and lose packages that PYTHONPATH alone names.
sed -i "s|PYTHONPATH=\"\$src\" command|PYTHONPATH=\"\$src:${PYTHONPATH:-}\" command|" workflow/rules/common.smk
failed=0
start=$(date +%s)
timeout "${LIMIT:-86400}" snakemake --cores 14 --resources gpu=6 --scheduler greedy --rerun-incomplete "$@" >"$out/snakemake.log" 2>&1 || failed=$?
took=$(($(date +%s) - start))
{
    echo "### The demo on the GPU: snakemake --cores 14 --resources gpu=6 $*, $took s, exit status $failed"
    echo
    cat results/tables/transfer.md 2>/dev/null || tail -n 40 "$out/snakemake.log"
    echo
    PYTHONPATH="src:${PYTHONPATH:-}" python3 - <<'PYTHON' || true
import pandas as pd
from prrmse.report.page import base_summary
from prrmse.tables.markdown import markdown_table

read = lambda name: pd.read_csv(f"results/tables/{name}.csv", keep_default_na=False, na_values=[""])
print(markdown_table(base_summary(read("base"))), "\n")
print(markdown_table(read("network")), "\n")
print(markdown_table(read("claims")[["claim", "text", "answer"]]))
PYTHON
    echo
    echo "Messages of training jobs that are not progress:"
    { cat logs/base/*/*/* logs/transfer/*/*/*/*/* 2>/dev/null || true; } | grep -v "step/s\|s/step\|^$" | sort | uniq -c | sort -rn | head -n 12
    echo "Seconds of a job (median, largest):"
    for stage in base transfer swap; do
        find "benchmarks/$stage" -name '*.tsv' -exec tail -qn 1 {} + 2>/dev/null | cut -f 1 | sort -n |
            awk -v stage="$stage" '{ s[NR] = $1 } END { if (NR) print stage, NR, "jobs:", s[int((NR + 1) / 2)], s[NR] }'
    done
} | tee "$out/demo.md"
tar -czf "$out/results.tar.gz" --exclude results/checkpoints results
exit "$failed"
