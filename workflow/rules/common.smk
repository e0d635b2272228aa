"""What all rules share: checked parameters, the names of the grid, and the code each rule runs."""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")
# The package is found without being installed, also in a rule's own conda environment.
sys.path.insert(0, "src")
shell.prefix("export PYTHONPATH=src; ")

from prrmse.code import imported_files
from prrmse.errors import InputError
from prrmse.params import check_data, check_params, models, section, split_model
from prrmse.titles import FIGURES

try:
    check_params(config)
    check_data(config)
except InputError as e:
    raise WorkflowError(f"error: {e}") from None

SEEDS = config["seeds"]
MODELS = models(config)
SWAPS = [(t, s) for t, sources in config["swap"]["sources"].items() for s in sources]
GPU = int(
    config["compute"]["device"] == "cuda"
    or (config["compute"]["device"] == "auto" and Path("/dev/nvidia0").exists())
)
TABLE_NAMES = [
    "data",
    "base",
    "swap",
    "rmse",
    "bn_shift",
    "verdict",
    "network",
    "transfer",
    "claims",
]
TABLES = expand("results/tables/{name}.csv", name=TABLE_NAMES)


wildcard_constraints:
    net="|".join(config["nets"]),
    model="|".join(MODELS),
    target="|".join(MODELS),
    source="|".join([*MODELS, "none"]),
    dataset="|".join(config["datasets"]),
    seed=r"\d+",
    samples=r"\d+",
    arm="scratch|freeze|finetune",


def code(rule_name):
    """The script of a rule and every module of the package that it imports."""
    script = f"workflow/scripts/{rule_name}.py"
    return [script, *imported_files(script)]


def data_of(model):
    """The processed data set of a base model."""
    return f"data/processed/{split_model(model)[0]}.npz"


def checkpoint(net, model, seed):
    """The checkpoint of a base model."""
    return f"results/checkpoints/{net}/{model}/seed{seed}.safetensors"
