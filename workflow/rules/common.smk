"""What all rules share: checked parameters, the names of the grid, and the code each rule runs."""

import json
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path

from snakemake.io import contains_wildcard
from snakemake.utils import min_version

min_version("9.19")

# A prefix takes away Snakemake's own, `set -euo pipefail`. The rules name scripts as seen from ROOT, so that their text,
# which Snakemake compares, is the same everywhere. `@<(lines FILE...)` hands a list over as a file: arguments of a
# program are limited in length, of a function not.
shell.prefix(
    "set -euo pipefail; src={SRC:q}; scripts={SCRIPTS:q}; "
    'python() {{ PYTHONPATH="$src" command python "${{@/#workflow\\/scripts/"$scripts"}}"; }}; '
    "lines() {{ (( $# == 0 )) || printf '%s\\n' \"$@\"; }}; "
)

from prrmse.config.params import completed, section
from prrmse.figures.titles import figure_titles
from prrmse.names import (
    CONTROLS,
    OTHER_INIT,
    PRETRAINED,
    SCRATCH,
    STUDY_PLANS,
    models,
    split_model,
)
from prrmse.run.code import SOURCES, code_digest, sources_digest
from prrmse.run.tracking import TRACKING

# The processes that run single jobs, on a cluster one each, need no second check.
if workflow.is_main_process:
    from prrmse.config.checks import (
        check_container,
        check_data,
        check_networks,
        check_params,
        check_tracking,
    )
    from prrmse.config.params import PARAMETERS
    from prrmse.errors import InputError
    from prrmse.run.kept import FORCED, forget_old
    from prrmse.run.locks import check_writable, hold_run, running
    from prrmse.run.manifest import check_untouched
    from prrmse.run.records import bring_to_present, runs_jobs

    # A dry run may be asked for by a profile, too.
    EXECUTES = (
        "snakemake" in sys.argv[0]
        and not workflow.output_settings.dryrun
        and runs_jobs(sys.argv[1:])
    )
    try:
        if "--unlock" in sys.argv and (other := running()):
            raise InputError(f"a run is at work here ({other}); end it first")
        check_writable()  # Snakemake makes folders even in a dry run
        if EXECUTES:
            if other := hold_run():
                logger.warning(f"another run is at work here ({other})")
            forget_old()
            bring_to_present((SRC / "prrmse" / "report").glob("*.j2"))
        checked = check_params(config)
        check_tracking(checked.tracking)
        check_container(checked.container)
        check_networks(checked)
        check_data(checked)
        check_untouched()
    except InputError as e:
        raise WorkflowError(f"error: {e.message_for(PARAMETERS)}") from None

    # For the jobs, which get the environment.
    os.environ[SOURCES] = sources_digest(SCRIPTS)
    if any(re.match(r"--force|-[a-zA-Z]*[fFR]", argument) for argument in sys.argv[1:]):
        os.environ[FORCED] = "1"

config.update(completed(config))

# A tracker decides no result: it is told to the jobs by their environment, and is no parameter of any; nor is the image
# in which they run.
os.environ[TRACKING] = config["tracking"]
RECORDED = sorted(config.keys() - {"tracking", "container"})

# Of the base models of each network: its own `nets.NAME.init` comes before that of all.
INITS = {net: spec["init"] or config["init"] for net, spec in config["nets"].items()}
SEEDS = config["seeds"]
MODELS = models(config["datasets"], config["tasks"])
SWAPS = [(t, s) for t, sources in config["swap"]["sources"].items() for s in sources]
PHANTOMS = [
    name for name, spec in config["datasets"].items() if spec.get("phantom")
] or ["none"]
GPU = int(
    config["compute"]["device"] == "cuda"
    or (
        config["compute"]["device"] == "auto" and shutil.which("nvidia-smi") is not None
    )
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
CURVES = expand(
    "results/curves/{net}/{model}/seed{seed}.jsonl",
    net=config["nets"],
    model=MODELS,
    seed=SEEDS,
)
EXAMPLES = expand(
    "results/figures/examples_{net}.{format}", net=config["nets"], format=["svg", "png"]
)


wildcard_constraints:
    net="|".join(config["nets"]),
    model="|".join(MODELS),
    target="|".join(MODELS),
    source="|".join([*MODELS, "none"]),
    dataset="|".join(config["datasets"]),
    seed=r"\d+",
    samples=r"\d+",
    arm="scratch|freeze|finetune|probe",
    source_seed=r"\d+",
    control="|".join([*CONTROLS, "noise-.*"]),
    start=f"{SCRATCH}|{PRETRAINED}",
    reused=r"all|verdict|random\d+",
    mode="|".join(["finetune", *STUDY_PLANS]),


def code(script):
    """A script's digest (`prrmse.run.code`), for `params`: a change of what the script computes runs its jobs again."""
    return lambda wildcards: f"code {digest_of_script(script)}"


# Of all jobs of a rule it is the same, and Snakemake asks for each of them, more than once.
@cache
def digest_of_script(script):
    return code_digest(SCRIPTS / f"{script}.py")


def parameters(*keys, **instead):
    """These sections of the parameters as JSON, wildcards in their names filled in.

    A function, because Snakemake looks for wildcards in a text, and a regular expression may have braces.
    """
    return lambda wildcards: section(
        {**config, **instead}, *(key.format(**dict(wildcards.items())) for key in keys)
    )


def templates(name):
    """A page's template and those that it is made of."""
    names = (name, "page.html.j2", "macros.html.j2")
    # As seen from the working folder where that is the workflow's: Snakemake compares the names, and it may be moved.
    root = "" if ROOT == Path.cwd() else f"{ROOT}/"
    return [f"{root}src/prrmse/report/{n}" for n in names]


def table(path):
    """A table: never an empty file, and shown by `snakemake --report` with the caption of its name."""
    name = Path(path).stem
    shown = report(
        path, caption=f"../report/{name}.rst", category="Tables", labels={"table": name}
    )
    return ensure(shown, non_empty=True)


def figure(path, title):
    """A figure, shown by `snakemake --report`."""
    labels = {"figure": title}
    return report(
        path, caption="../report/figure.rst", category="Figures", labels=labels
    )


def evidence_files(*names):
    """What `snakemake evidence` makes, shown by `snakemake --report` but for pictures that it has as SVG, too."""
    paths = [f"results/evidence/{name}" for name in names]
    return [
        (
            path
            if path.endswith(("png", "md"))
            else report(
                ensure(path, non_empty=True),
                caption="../report/evidence.rst",
                category="Evidence",
                labels={"result": Path(path).name},
            )
        )
        for path in paths
    ]


def data_of(model):
    """The processed data set of a base model."""
    return f"data/processed/{split_model(model)[0]}.npz"


def checkpoint(net, model, seed):
    """The checkpoint of a base model."""
    return f"results/checkpoints/{net}/{model}/seed{seed}.safetensors"


def raw_data(wildcards):
    """A phantom's manifest, or every file of a data set that the user brought."""
    spec = config["datasets"][wildcards.dataset]
    if spec.get("phantom"):
        return f"data/phantom/{wildcards.dataset}.sha256"
    from prrmse.data.prepare import raw_files  # takes a second

    files = raw_files(spec["format"], spec["root"])
    for file in files:
        if contains_wildcard(file):
            raise WorkflowError(
                f"error: datasets.{wildcards.dataset}.root: {file}: Snakemake takes braces in a name for a wildcard; "
                "rename the file"
            )
    return files


def transfer_source(wildcards):
    """The source's checkpoint; nothing for training from scratch."""
    return (
        []
        if wildcards.source == "none"
        else checkpoint(wildcards.net, wildcards.source, wildcards.seed)
    )


def transfer_plan(wildcards):
    """The verdict, where it is the plan: then a new verdict trains again."""
    own = config["transfer"]["plan"] == "verdict" and wildcards.arm != "scratch"
    return "results/tables/verdict.csv" if own else []


def transfer_parts(wildcards):
    """Every run of the experiment."""
    t = config["transfer"]
    arms = [
        (arm, source)
        for arm in t["arms"]
        for source in (["none"] if arm == "scratch" else t["sources"])
    ]
    return [
        f"results/transfer/{net}/n{samples}/{arm}/{source}/seed{seed}.csv"
        for net in t["nets"]
        for samples in t["samples"]
        for arm, source in arms
        for seed in SEEDS
    ]


def control_other(wildcards):
    """The checkpoint that a control refers to: the target's next seed, or the source whose distance noise has."""
    if wildcards.control == "seed":
        seed = SEEDS[(SEEDS.index(int(wildcards.seed)) + 1) % len(SEEDS)]
        return checkpoint(wildcards.net, wildcards.target, seed)
    if wildcards.control.startswith("noise-"):
        source = wildcards.control.removeprefix("noise-")
        return checkpoint(wildcards.net, source, wildcards.seed)
    return []


def control_parts(wildcards):
    """Every control of every target; a second seed where there is one."""
    return [
        f"results/evidence/controls/{net}/{target}/{control}/seed{seed}.csv"
        for net in config["nets"]
        for target, sources in config["swap"]["sources"].items()
        for control in [*CONTROLS, *(f"noise-{source}" for source in sources)]
        for seed in SEEDS
        if control != "seed" or len(SEEDS) > 1
    ]


def other_start(wildcards):
    """The sections of `base` with the other initialisation, which the network's own setting then does not overrule."""
    net = wildcards.net
    sections = parameters(
        "nets.{net}",
        "init",
        "base",
        "compute",
        nets={net: {**config["nets"][net], "init": None}},
        init=OTHER_INIT[INITS[net]],
    )
    return sections(wildcards)


def factorial_parts(folder, init_folder):
    """Sweeps of the transfer's target from each of its sources, and from random kernels, under one initialisation."""
    target = config["transfer"]["target"]
    real = [
        f"{folder}/{net}/{target}/{source}/seed{seed}.csv"
        for net in config["nets"]
        for source in config["swap"]["sources"][target]
        for seed in SEEDS
    ]
    return real + [
        f"{init_folder}/{net}/{target}/random/seed{seed}.csv"
        for net in config["nets"]
        for seed in SEEDS
    ]


def ranked_sources():
    """(network, base model, its seed) of every source that is ranked."""
    e = config["evidence"]
    return [(n, m, s) for n in e["nets"] for m in e["sources"] for s in SEEDS]


def score_parts(kind):
    """What `transferability` makes of every source."""
    return [
        f"results/evidence/transferability/{net}/{source}/seed{seed}.{kind}"
        for net, source, seed in ranked_sources()
    ]


def gain_parts(kind):
    """Every fine-tuning and probe of the ranking, those from the target's own initialisation first."""
    e = config["evidence"]
    untrained = [(net, "none", 0) for net in e["nets"]]
    return [
        f"results/evidence/gain/{net}/{arm}/{source}-{source_seed}/seed{seed}.{kind}"
        for net, source, source_seed in [*untrained, *ranked_sources()]
        for arm in ("finetune", "probe")
        for seed in e["seeds"]
    ]


def study_sweep(wildcards):
    """The sweep from which the list of reused pairs follows, where there is one."""
    if wildcards.reused == "all":
        return []
    return f"results/swap/{wildcards.net}/{wildcards.target}/{wildcards.source}/seed{SEEDS[0]}.csv"


def study_section():
    """The section of the parameters."""
    if config["study"] is None:
        raise WorkflowError(
            "error: study: the parameters have no such section; add --configfile configs/study.yaml"
        )
    return config["study"]


def study_neighbours():
    """(target, source): each listed target with the one behind it in the list, so that each is a source once."""
    s = study_section()
    targets = s["listed"] or s["targets"]
    return list(zip(targets, [*targets[1:], targets[0]]))


def study_sources(target):
    """The base models of other data sets."""
    own = split_model(target)[0]
    return [m for m in study_section()["sources"] if split_model(m)[0] != own]


def study_starts(net):
    """The starts that a network has of its own, the best first."""
    has_weights = config["nets"][net]["pretrained"] != "none"
    return [PRETRAINED, SCRATCH] if has_weights else [SCRATCH]


def study_guide_of(wildcards):
    """The target as a user has it: trained on few patients from the network's own start."""
    start, seed = study_starts(wildcards.net)[0], study_section()["seeds"][0]
    return f"results/study/starts/{wildcards.net}/{wildcards.target}/{start}/seed{seed}.safetensors"


def study_runs(wildcards):
    """Every training of the study: each start with all reused; of a neighbour also lists of layers, and frozen."""
    s = study_section()
    neighbours = dict(study_neighbours())
    lists = ["verdict", *(f"random{i}" for i in range(s["draws"]))]
    found = []
    for net in s["nets"]:
        for target in s["targets"]:
            arms = [(start, "none", "finetune") for start in study_starts(net)]
            arms += [(source, "all", "finetune") for source in study_sources(target)]
            if neighbour := neighbours.get(target):
                arms += [(neighbour, reused, "finetune") for reused in lists]
                arms += [(neighbour, reused, "freeze") for reused in lists]
                arms += [(neighbour, "all", mode) for mode in STUDY_PLANS]
            found += [(net, target, *arm) for arm in dict.fromkeys(arms)]
    return [
        f"results/study/runs/{net}/{target}/{start}/{reused}-{mode}/seed{seed}.csv"
        for seed in s["seeds"]
        for net, target, start, reused, mode in found
    ]


def study_bases(wildcards):
    """Segmentation models on validation and test patients; of networks for the ancestry alone those that are swept."""
    s = study_section()
    models = [(net, model) for net in s["nets"] for model in s["targets"]]
    models += [
        (net, target)
        for pair in s["ancestry"].values()
        for net in pair
        for target, _ in study_neighbours()
    ]
    return [
        f"results/study/base/{net}/{model}/seed{SEEDS[0]}.csv"
        for net, model in dict.fromkeys(models)
    ]


def study_score_parts(wildcards):
    """Scores of every source of every target."""
    s = study_section()
    return [
        f"results/study/scores/{net}/{target}/{source}.csv"
        for net in s["nets"]
        for target in s["targets"]
        for source in study_sources(target)
    ]


def study_recipes(wildcards):
    """Base models trained otherwise."""
    return [f"results/study/recipes/{name}.csv" for name in study_section()["recipes"]]


def study_searches(wildcards):
    """The best start of every target by short trainings."""
    s = study_section()
    return [
        f"results/study/search/{net}/{target}/seed{seed}.csv"
        for net in s["nets"]
        for target in s["targets"]
        for seed in s["seeds"]
    ]


def study_ancestry(wildcards):
    """Sweeps of neighbouring targets, and from random kernels, with and without a common ancestor."""
    nets = [net for pair in study_section()["ancestry"].values() for net in pair]
    sweeps = [
        f"results/swap/{net}/{target}/{source}/seed{SEEDS[0]}.csv"
        for net in nets
        for target, source in study_neighbours()
    ]
    return sweeps + [
        f"results/evidence/controls/{net}/{target}/random/seed{SEEDS[0]}.csv"
        for net in nets
        for target, _ in study_neighbours()
    ]


def study_pairs(folder, suffix=".csv"):
    """A table of each target with its neighbour, in every network in which they are connected."""
    return [
        f"results/study/{folder}/{net}/{target}/{source}{suffix}"
        for net in study_section()["connect"]
        for target, source in study_neighbours()
    ]


def study_guides(wildcards):
    """Sweeps of each target by its neighbour: trained on all its patients, then on few."""
    return [
        f"{folder}/{net}/{target}/{source}/seed{SEEDS[0]}.csv"
        for folder in ("results/swap", "results/study/guides")
        for net in study_section()["nets"]
        for target, source in study_neighbours()
    ]
