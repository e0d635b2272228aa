"""A real SLURM cluster on this machine: the whole workflow through it, and trainings that are killed in four ways."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import Folder, jobs, parameters

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("slurmctld", "slurmdbd")),
        reason="SLURM is not installed: tests/slurm/install.sh (Debian, root)",
    ),
]
SLURM = Path(__file__).parent / "slurm"
# Snakemake, whose plugin would wait ten seconds longer after each look that finds no job ended.
SNAKEMAKE = """
import asyncio, sys
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake.cli import main
RemoteExecutor.sleep = lambda executor: asyncio.sleep(2)
sys.argv[0] = "snakemake"
main()
"""
FAST = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"]


class Cluster:
    """Three nodes on loopback: cpu1, cpu2 and gpu1, which has two simulated GPUs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        settings = {"MEM_MB": "32000", "CPUS": "8"}
        subprocess.run([SLURM / "start.sh", path], env={**os.environ, **settings}, check=True)
        shell = f". {path}/env.sh; echo $SLURM_CONF; echo $PATH"
        configuration, search = subprocess.check_output(["bash", "-c", shell], text=True).splitlines()
        self.environment = {"SLURM_CONF": configuration, "PATH": f"{search}:/usr/sbin"}

    def __call__(self, *command: str) -> str:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout

    def accounts(self, *fields: str) -> list[list[str]]:
        """A row of these fields for every submission, also for each attempt of a requeued one."""
        printed = self("sacct", "-X", "-n", "-P", "--duplicates", "-S", "now-1hours", "-o", ",".join(fields))
        return [line.split("|") for line in printed.splitlines()]

    def stop_node(self, node: str) -> None:
        """Power off: the daemon, what looks after its jobs, and the jobs, without a word to anyone."""
        jobs = self("squeue", "-h", "-w", node, "-o", "%i").split()
        os.kill(int((self.path / f"run/slurmd-{node}.pid").read_text()), signal.SIGKILL)
        for job in jobs:
            subprocess.run(["pkill", "-KILL", "-f", rf"slurmstepd: \[{job}\."], check=False)
            for process in _processes_of_job(job):
                os.kill(process, signal.SIGKILL)

    def start_node(self, node: str) -> None:
        self("slurmd", "-N", node)


def _processes_of_job(job: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"SLURM_JOB_ID={job}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # Not in pytest's folder: a path to a UNIX socket may have 107 characters.
    path = Path("/tmp") / f"prrmse-slurm-{os.getpid()}"
    cluster = Cluster(path)
    yield cluster
    subprocess.run([SLURM / "stop.sh", path], env={**os.environ, "KEEP": "0"}, check=True)


class OnCluster(Folder):
    """A folder whose snakemake submits to the cluster."""

    def __init__(self, path: Path, cluster: Cluster, params: dict) -> None:
        super().__init__(path)
        self.cluster = cluster
        self.write(params)

    @property
    def environment(self) -> dict[str, str]:
        own = super().environment
        return {**own, **self.cluster.environment, "PATH": f"{own['PATH']}:{self.cluster.environment['PATH']}"}

    def submit(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", SNAKEMAKE, "--workflow-profile", "profiles/slurm", *FAST, *arguments]


def few_jobs() -> dict:
    """One network, one sweep, three transfer runs: every job pays for a start under SLURM."""
    params = parameters()
    del params["nets"]["unet"]
    params["swap"]["sources"] = {"acdc-seg": ["t1-seg"]}
    params["transfer"]["samples"] = [2]
    return params


def test_the_whole_workflow_on_a_cluster_makes_the_same_bytes(cluster, tmp_path):
    local = Folder(tmp_path / "local")
    local.write(few_jobs())
    local.must("snakemake", "--cores", "2")
    folder = OnCluster(tmp_path / "cluster", cluster, few_jobs())
    before = len(cluster.accounts("jobid"))
    printed = folder.must(*folder.submit())
    assert local.must("prrmse", "diff", ".", str(folder.path)) == "the same bytes in every file\n"

    rows = cluster.accounts("comment%200", "partition", "alloctres%200", "state")[before:]
    assert {state for *_, state in rows} == {"COMPLETED"}
    submitted = Counter(re.sub("_wildcards_.*", "", comment) for comment, *_ in rows)
    planned = jobs(printed)
    print(f"\n{'submission':16s} submitted\n" + "\n".join(f"{k:16s} {n:9d}" for k, n in sorted(submitted.items())))
    print(f"{sum(submitted.values())} submissions for {sum(planned.values())} jobs")
    heavy = {f"rule_{rule}": planned[rule] for rule in ("base", "swap", "transfer")}
    assert {name: submitted[name] for name in heavy} == heavy, "one submission each"
    # Per data set, data_table, reuse, report.
    assert sum(submitted.values()) - sum(heavy.values()) == 2 + 3
    for comment, partition, resources, _ in rows:
        wanted = comment.split("_wildcards")[0] in heavy
        assert (partition == "gpu") == wanted, comment
        assert ("gres/gpu=1" in resources) == wanted, comment


MODELS = ["acdc-seg", "acdc-auto", "t1-seg", "t1-auto"]


def test_trainings_survive_time_limit_cancellation_preemption_and_a_lost_node(cluster, tmp_path):
    params = few_jobs()
    params["base"]["steps"] = 100
    params["compute"]["resume_seconds"] = 0
    undisturbed = Folder(tmp_path / "undisturbed")
    undisturbed.write(params)
    undisturbed.must("snakemake", "--cores", "2", "base_table")

    folder = OnCluster(tmp_path / "disturbed", cluster, params)
    # Memory for two on each of the two nodes.
    overrides = ["base:slurm_partition=cpu", "base:gpu=0", "base:mem_mb=16000"]
    command = folder.submit("--set-resources", *overrides, "--", "base_table")
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(command, cwd=folder.path, env=folder.environment, stdout=log, stderr=log)
    try:
        ids = stopped(cluster, folder, run)
        nodes = {model: cluster("squeue", "-h", "-j", job, "-o", "%N").strip() for model, job in ids.items()}
        lost, cancelled, limited, preempted = sorted(MODELS, key=nodes.__getitem__)
        # This one hangs until its time is up; SLURM lets a stopped one go on when it asks it to end.
        cluster("scontrol", "update", f"JobId={ids[limited]}", "TimeLimit=1")
        cluster("scancel", ids[cancelled])
        cluster("scontrol", "requeue", ids[preempted])
        cluster.stop_node(nodes[lost])
        # SLURM starts a job again after two minutes at the earliest; here at once.
        for model in (preempted, lost):
            wait_for(lambda job=ids[model]: "PENDING" in cluster("squeue", "-h", "-j", job, "-o", "%T"))
            cluster("scontrol", "update", f"JobId={ids[model]}", "StartTime=now")
        assert run.wait(600) == 0, (tmp_path / "log").read_text()[-6000:]
    finally:
        run.kill()
        cluster.start_node(nodes[lost])
    states = {}
    for job, state in cluster.accounts("jobid", "state"):
        states.setdefault(job, []).append(state.split()[0])
    print(f"\n{ {model: states[job] for model, job in ids.items()} }")
    assert "TIMEOUT" in states[ids[limited]]
    assert "CANCELLED" in states[ids[cancelled]]
    assert {"REQUEUED", "PREEMPTED"} & set(states[ids[preempted]])
    assert "NODE_FAIL" in states[ids[lost]]
    for model in MODELS:
        log = (folder.path / f"logs/base/pspnet/{model}/seed0.log").read_text()
        assert re.search(r"resuming after step [1-9]\d* ", log), f"{model} began again from nothing"
        name = f"results/checkpoints/pspnet/{model}/seed0.safetensors"
        assert (folder.path / name).read_bytes() == (undisturbed.path / name).read_bytes(), name
    assert not list(folder.path.glob("results/checkpoints/**/.*.resume*"))


def stopped(cluster: Cluster, folder: Folder, run: subprocess.Popen) -> dict[str, str]:
    """The SLURM ids of the models' trainings, each of which is stopped once it has done a step."""
    ids = {}

    def all_are_stopped() -> bool:
        for model in MODELS:
            if model not in ids and (folder.path / f"results/checkpoints/pspnet/{model}/.seed0.resume").exists():
                lines = cluster("squeue", "-h", "-t", "R", "-o", "%i %k").splitlines()
                (ids[model],) = [line.split()[0] for line in lines if f"base_wildcards_pspnet_{model}_0" in line]
                for process in _processes_of_job(ids[model]):
                    os.kill(process, signal.SIGSTOP)
        return len(ids) == len(MODELS) or run.poll() is not None

    wait_for(all_are_stopped)
    assert run.poll() is None, "the run ended before the faults"
    return ids


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
