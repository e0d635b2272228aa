"""Command line: parameters of the workflow, and networks and checkpoints of your own."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, get_args

from prrmse.failures import FIX, did_you_mean, exit_status, one_line
from prrmse.log import show_messages
from prrmse.names import PLANS, USUAL_PLANS
from prrmse.settings import (
    Compute,
    Dataset,
    FrozenStatistics,
    Section,
    Stopping,
    Swap,
    Training,
    Transfer,
    UNetArguments,
    Verdict,
)

# How the settings that errors speak of are called on the command line.
FLAGS = {
    "root": "--data",
    "spacing_mm": "--spacing",
    "size": "--size",
    "format": "--format",
    "steps": "--steps",
    "batch_size": "--batch",
    "threads": "--threads",
    "tolerance": "--tolerance",
    "case_pattern": "--case-pattern",
    "split": "--split",
    "memory_mb": "--memory-mb",
    "evaluation_batch_size": "--batch",
    "learning_rate": "--learning-rate",
    "device": "--device",
    "samples": "--samples",
    "augment": "--augment",
    "out": "--out",
    "nnunet": "--nnunet",
    "nnunet_plans": "--nnunet-plans",
    "configuration": "--configuration",
    "advice_out": "--out",
    "processed": "--out",
    "split_file": "--split-file",
    "fold": "--fold",
    "table": "--table",
    "figure": "--figure",
    "page": "--page",
    "trust": "--trust",
    "start": "--start",
    "freeze": "--freeze",
    "freeze_steps": "--freeze-steps",
    "pretrained": "--pretrained",
    "verdicts": "--verdicts",
    "entry": "--entry",
}


class Help(argparse.RawDescriptionHelpFormatter):
    """Says the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help or ""
        is_plain = isinstance(default, int | float | str) and not isinstance(default, bool)
        if not is_plain or default in ("{}", argparse.SUPPRESS) or "(default" in text:
            return text
        return f"{text} (default %(default)s)"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what was probably meant; argparse prints the usage before it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """What is left over is an error of the command that it was given to, which knows its own options."""
        parsed, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return parsed, left

    def error(self, message: str) -> NoReturn:
        # From Python 3.14 on argparse says so itself, but of choices only.
        wrong = re.search(r"(?:unrecognized arguments:|invalid choice:) '?([^\s'=]+)", message)
        known = [*self._option_string_actions, *(str(c) for action in self._actions for c in action.choices or ())]
        hint = did_you_mean(wrong[1], known) if wrong else ""
        print(f"error: {one_line(message)}{hint}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(FIX)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``prrmse``; status 0, 1 if ``diff`` or ``verify`` finds something, otherwise as `exit_status`."""
    parsed = command_line().parse_args(arguments)
    show_messages()
    names = FLAGS
    if parsed.command in ("check", "use"):
        from prrmse.config.params import PARAMETERS as names
    return exit_status(lambda: parsed.act(parsed), names)


def command_line() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(
        prog="prrmse",
        description="Which pretrained parameters can be reused, in which layers.",
        epilog="Exit status: 0 done; 1 diff found a difference, verify a damaged or missing file; 2 something must be "
        "fixed, and one line says what; 3 a defect of prrmse, whose traceback PRRMSE_DEBUG=1 shows.",
    )
    parser.add_argument("--version", action="version", version=f"prrmse {version('prrmse')}")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check a parameter file and that its data sets are there")
    check.add_argument("files", nargs="*", default=["params.yaml"], help="later files replace keys of earlier ones")
    check.set_defaults(act=_check)
    params = commands.add_parser("params", help="print every parameter and what it means, as a Markdown table")
    params.add_argument("--schema", action="store_true", help="print the JSON schema instead, for editors")
    params.set_defaults(act=_params)
    use = commands.add_parser("use", help="write the keys of another file, e.g. configs/paper.yaml, into params.yaml")
    use.add_argument("file")
    use.set_defaults(act=_use)
    diff = commands.add_parser("diff", help="say where two runs first differ (exit status 1 if they do)")
    diff.add_argument("runs", nargs=2, metavar="RUN", help="a folder that holds results/manifest.json")
    diff.set_defaults(act=_diff)
    verify = commands.add_parser(
        "verify",
        help="read every result of a run and say which are gone or not as they were written (exit status 1 if any)",
    )
    verify.add_argument("run", nargs="?", default=".", metavar="RUN", help="a folder that holds results/")
    verify.set_defaults(act=_verify)
    _add_tools(commands)
    return parser


def _add_tools(commands: Any) -> None:
    """The commands for networks and checkpoints of any origin."""

    def command(name: str, text: str, example: str, *, opens: bool = True) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"Example:\n  {example}",
            formatter_class=Help,
        )
        form = made.add_mutually_exclusive_group()
        form.add_argument("--all", action="store_true", help="print every row and column of a table")
        form.add_argument("--json", action="store_true", help="print JSON")
        form.add_argument("--csv", action="store_true", help="print the table as CSV")
        if opens:
            made.add_argument(
                "--entry",
                action="append",
                default=[],
                metavar="NAME",
                help="the state to take where a checkpoint holds several, e.g. student; may be given again for other "
                "files",
            )
        made.set_defaults(act=lambda a: _tool(name, a, made))
        return made

    prepare = command(
        "prepare",
        "read, check and resample a data set once, into the file that --data of the other commands takes",
        "prrmse prepare --data nnUNet_raw/Dataset001_Heart --spacing 1.5 --size 128 --out heart.npz",
        opens=False,
    )
    prepare.add_argument("--data", help="the folder of a data set")
    _add_reading(prepare)
    _add_plans(prepare)
    prepare.add_argument(
        "--split-file",
        help="a CSV with the columns patient, split (train, val or test; who is not in it is left out), or a "
        "splits_final.json of nnU-Net; without it half of the patients train and half are val",
    )
    prepare.add_argument(
        "--fold", type=int, metavar="K", help="of splits_final.json, from 0: the one in which the network was trained"
    )
    prepare.add_argument("--out", required=True, help="the .npz file")
    inspect = command("inspect", "list the (kind, layer) pairs of a checkpoint", "prrmse inspect resnet18.pth")
    inspect.add_argument("checkpoint")
    compare = command(
        "compare", "distances of two checkpoints, pair by pair", "prrmse compare a.safetensors b.pth --figure ab.png"
    )
    compare.add_argument("a", metavar="A")
    compare.add_argument("b", metavar="B")
    compare.add_argument("--figure", help="draw the distances here (.png, .svg or .pdf)")
    sweep = command(
        "sweep",
        "take each pair of a target from a source, alone, and measure Dice again",
        "prrmse sweep target.safetensors source.pth --data data/processed/acdc.npz --figure sweep.png",
    )
    screen = command(
        "screen",
        "put the pairs of sources in an order by how much harm a swap would do, by one backward pass of the target",
        "prrmse screen target.safetensors pretrained/*.pth --data nnUNet_raw/Dataset001 --spacing 1.5 --size 128",
    )
    advise = command(
        "advise",
        "rank sources for a target: what fits, what all of it together does",
        "prrmse advise target.safetensors pretrained/*.pth --data nnUNet_raw/Dataset001 --spacing 1.5 --size 128",
    )
    evaluate = command(
        "evaluate",
        "measure a network on your data: Dice of each structure and patient",
        "prrmse evaluate target.safetensors --data nnUNet_raw/Dataset001_Heart --spacing 1.5 --size 128 --csv",
    )
    evaluate.add_argument("target", metavar="checkpoint", help="of a segmentation network")
    _add_network(evaluate)
    _add_data(evaluate)
    _add_plans(evaluate)
    for tool in (sweep, screen, advise):
        tool.add_argument("target", help="checkpoint of the target, trained on your data")
    sweep.add_argument("source")
    screen.add_argument("sources", nargs="+", metavar="source")
    _add_network(screen)
    _add_data(screen)
    screen.add_argument("--table", help="write one row per source and pair here (.csv)")
    _add_plans(screen)
    advise.add_argument("sources", nargs="*", metavar="source", help="with --budget all are sources, the first one too")
    for tool in (sweep, advise):
        _add_network(tool)
        _add_data(tool)
        tool.add_argument(
            "--tolerance", type=float, default=_default(Verdict, "tolerance"), help="largest drop of mean Dice"
        )
        tool.add_argument(
            "--engine", choices=["fast", "exact", "plain"], default=_default(Swap, "engine"), help="see docs/design.md"
        )
        tool.add_argument(
            "--memory-mb", type=float, default=_default(Swap, "memory_mb"), help="bound on what a sweep holds, MiB"
        )
        tool.add_argument(
            "--until-decided",
            type=float,
            metavar="RATE",
            help="measure each pair on no more patients than it takes to tell whether its mean drop is within the "
            "tolerance; the rate, e.g. 0.05, of verdicts that may differ from that on all of them (docs/screen.md)",
        )
        tool.add_argument(
            "--stopping",
            choices=get_args(Stopping),
            default="guaranteed",
            help="of --until-decided: guaranteed, whatever the drops are; or by a t test, normal, which is faster and "
            "misses what fails on few patients only",
        )
    sweep.add_argument("--table", help="write one row per pair and patient here (.csv)")
    sweep.add_argument("--figure", help="draw the drops here (.png, .svg or .pdf)")
    _add_plans(sweep)
    advise.add_argument(
        "--rule", choices=["mean", "upper"], default=_default(Verdict, "rule"), help="compared with the tolerance"
    )
    advise.add_argument("--out", help="write the whole advice here (.json), for warmstart")
    advise.add_argument("--page", help="write the advice as one page here (.html), to be looked at in a browser")
    _add_budget(advise)
    _add_plans(advise)
    warmstart = command(
        "warmstart",
        "write a checkpoint with the advised pairs reused, and a list of what to freeze",
        "prrmse warmstart --network unet --arguments '{\"width\": 32}' --advice advice.json --out warm.safetensors",
    )
    warmstart.add_argument(
        "target", nargs="?", help="checkpoint of the network at its initialisation; or --network, initialised anew"
    )
    _add_network(warmstart)
    _add_pretrained(warmstart)
    _add_plans(warmstart)
    _add_seed(warmstart)
    warmstart.add_argument("--advice", help="of prrmse advise --out; its best source, if --source names no other")
    warmstart.add_argument("--source", help="without --advice, a checkpoint: all that fits is taken")
    warmstart.add_argument("--exclude", help="pairs to leave, e.g. W1,RM17")
    warmstart.add_argument("--reuse-final", action="store_true", help="take the final convolution too")
    warmstart.add_argument("--out", required=True, help="the .safetensors file; the list is the .json beside it")
    warmstart.add_argument(
        "--nnunet",
        metavar="NAME.py",
        help="also write a trainer of nnU-Net v2 here, and beside it NAME.pth for its -pretrained_weights",
    )
    train = command(
        "train",
        "train a network on your data, from scratch or from a checkpoint, and measure Dice",
        "prrmse train --network unet --arguments '{\"width\": 32}' --data Dataset001 --out target.safetensors\n"
        "  prrmse train --network unet --arguments '{\"width\": 32}' --data Dataset001 --start warm.safetensors"
        " --freeze warm.json --out frozen.safetensors",
    )
    _add_network(train, needed=True)
    _add_data(train)
    _add_plans(train)
    train.add_argument("--start", help="checkpoint to start from, as far as it fits, e.g. of prrmse warmstart")
    train.add_argument("--freeze", help="list of prrmse warmstart: what it names keeps its value")
    train.add_argument(
        "--freeze-steps",
        type=int,
        metavar="N",
        help="keep it for the first N steps, then train all; after a kill these are done again",
    )
    train.add_argument(
        "--frozen-statistics",
        choices=get_args(FrozenStatistics),
        default=_default(Transfer, "frozen_statistics"),
        help="running statistics with --freeze: kept where both of a layer are listed (both), exactly those listed "
        "(literal), or as both and then re-estimated (reestimated); see docs/freezing.md",
    )
    _add_training(train)
    _add_pretrained(train)
    train.add_argument("--out", required=True, help="the .safetensors file")


def _add_network(tool: argparse.ArgumentParser, *, needed: bool = False) -> None:
    text = "unet, pspnet or module:callable" + ("" if needed else "; for checkpoints that are not of this program")
    tool.add_argument("--network", help=text)
    width = _default(UNetArguments, "width")
    tool.add_argument(
        "--arguments",
        default="{}",
        help=f'of the network, as a JSON object, e.g. {{"width": 32}}; unet has {width} without it',
    )
    tool.add_argument(
        "--trust",
        action="store_true",
        help="run the code of --network, which you have read; it may then lie in this folder, too; see SECURITY.md",
    )
    if needed:
        return
    tool.add_argument("--partial", action="store_true", help="go on if not all of the target's tensors fit the network")


def _add_plans(tool: argparse.ArgumentParser) -> None:
    plans = tool.add_argument_group(
        "of nnU-Net v2", "Network, preprocessing and batch size are those of its plans (docs/advise.md)."
    )
    plans.add_argument(
        "--nnunet-plans",
        metavar="FOLDER",
        help="a trainer's results, or a fold of them, or the preprocessed data set; or a file of plans",
    )
    plans.add_argument("--configuration", help="2d or 3d_fullres, where the folder does not say it")


def _add_training(tool: argparse._ActionsContainer) -> None:
    tool.add_argument("--samples", type=int, help="number of training patients, sampled with --seed")
    tool.add_argument("--steps", type=int, default=_default(Training, "steps"), help="optimiser steps")
    tool.add_argument(
        "--learning-rate", type=float, default=_default(Training, "learning_rate"), help="of Adam; cosine schedule"
    )
    tool.add_argument("--augment", action="store_true", help="flips, quarter turns, contrast")
    _add_seed(tool)


def _add_budget(tool: argparse.ArgumentParser) -> None:
    search = tool.add_argument_group(
        "with --budget",
        "No target is needed: every source is tried by short trainings of --network on the training patients (with "
        "--split all on all), each held out once; the better half of the candidates goes on (docs/advise.md).",
    )
    search.add_argument("--budget", metavar="TIME", help="of training: 90s, 10m, 2h")
    search.add_argument(
        "--plans",
        nargs="+",
        metavar="PLAN",
        help=f"what of a source stays fixed: {', '.join(PLANS)}, or first3 for its first 3 layers (docs/advise.md; "
        f"default: {' '.join(USUAL_PLANS)})",
    )
    search.add_argument(
        "--verdicts",
        metavar="ADVICE",
        help="of prrmse advise --out for a target: each source is also tried with only the pairs that are reusable",
    )
    search.add_argument("--folds", type=int, default=5, help="groups of patients, each held out once")
    search.add_argument("--rounds", type=int, default=4, help="in each twice the steps; --steps are those of the last")
    search.add_argument("--figure", help="draw the learning curves here (.png, .svg or .pdf)")
    _add_training(search)
    _add_pretrained(search)


def _add_pretrained(tool: argparse._ActionsContainer) -> None:
    tool.add_argument(
        "--pretrained",
        metavar="FILE",
        help="the network's own pretrained weights: a checkpoint, package:path of a file in an installed package, or "
        "imagenet (pspnet, by a download)",
    )
    tool.add_argument(
        "--pretrained-part", metavar="PREFIX", help="beginning of the names that they are for, e.g. encoder."
    )
    tool.add_argument(
        "--pretrained-match",
        metavar="HOW",
        help="name (default), order, or a JSON file of the network's names to theirs",
    )


def _add_seed(tool: argparse._ActionsContainer) -> None:
    tool.add_argument("--seed", type=int, default=0, help="of initialisation, sampled patients and batches")


def _add_data(tool: argparse.ArgumentParser) -> None:
    tool.add_argument("--data", help="a file of prrmse prepare, or the folder of a data set")
    _add_reading(tool)
    tool.add_argument("--split", default="val", help="train, val, test or all; of a folder half the patients are val")
    tool.add_argument("--device", default=_default(Compute, "device"), choices=["auto", "cpu", "cuda"])
    tool.add_argument("--precision", default="float32", choices=["auto", "float32", "bfloat16"])
    batch = _default(Training, "batch_size")
    tool.add_argument("--batch", type=int, help=f"batch size (default {batch}), or that of --nnunet-plans")
    tool.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the CPU (default: all)")


def _add_reading(tool: argparse.ArgumentParser) -> None:
    tool.add_argument("--format", default="nnunet", help="of the folder: nnunet (also the Decathlon), acdc, rvsc, t1")
    tool.add_argument(
        "--spacing", type=float, default=_default(Dataset, "spacing_mm"), help="in-plane, mm, after resampling"
    )
    tool.add_argument("--size", type=int, default=_default(Dataset, "size"), help="rows and columns of a slice")
    tool.add_argument(
        "--case-pattern", help="finds `patient` (and `frame`) in a case's name; see datasets.NAME.case_pattern"
    )


def _tool(name: str, a: argparse.Namespace, made: argparse.ArgumentParser) -> None:
    from prrmse.cli import commands  # imports torch, which takes seconds
    from prrmse.learning.device import choose_device, set_up_process

    module, colon, _ = (getattr(a, "network", None) or "").partition(":")
    package = module.partition(".")[0]
    if getattr(a, "trust", False) and colon and package and find_spec(package) is None:
        sys.path.append(str(Path.cwd()))  # as `python -m` has it; only where nothing installed is meant
    a.given = {option for option, value in vars(a).items() if value != made.get_default(option)}
    commands.take_plans(a)
    if "device" in a:
        compute = commands.compute_of(a)
        set_up_process(compute.device, compute.threads)
        choose_device(compute.device)  # refused before the data are read
    getattr(commands, name)(a)


def _default(section: type[Section], name: str) -> Any:
    """A default stands once: in the class of its section."""
    return section.model_fields[name].default


def _check(a: argparse.Namespace) -> None:
    from prrmse.config.checks import check_container, check_data, check_networks, check_tracking
    from prrmse.config.params import read_params

    params = read_params(*a.files)
    check_tracking(params.tracking)
    check_container(params.container)
    left = check_networks(params, run_trusted=False)
    check_data(params)
    print(f"{' + '.join(a.files)}: fine")
    for name in left:
        print(f"nets.{name}: {params.nets.foreign[name].factory} was not built, since a check runs no code of its own")


def _params(a: argparse.Namespace) -> None:
    from prrmse.config.reference import reference, schema

    print(json.dumps(schema(), indent=1) if a.schema else reference())


def _use(a: argparse.Namespace) -> None:
    from prrmse.config.params import use_params

    for key, old, new in use_params(a.file):
        print(f"{key}: {old} -> {new}")


def _diff(a: argparse.Namespace) -> int:
    from prrmse.run.difference import compare_runs

    lines = compare_runs(*a.runs)
    print("\n".join(lines) if lines else "the same bytes in every file")
    return int(bool(lines))


def _verify(a: argparse.Namespace) -> int:
    from prrmse.run.hashes import damaged, missing, recorded, remedy, remedy_of_missing

    lines = [f"{file}: not as it was written; to make it anew: {remedy(file)}" for file in damaged(a.run)]
    lines += [f"{file}: not there; to make it: {remedy_of_missing(file)}" for file in missing(a.run)]
    print("\n".join(lines) or f"{len(recorded(a.run))} files are as they were written")
    return int(bool(lines))
