"""A run as a Workflow Run RO-Crate: one archive of the workflow, its parameters and what it made, described in JSON-LD.

The description follows RO-Crate 1.1 and the profile Workflow Run Crate 0.5. Its dates are Snakemake's own notes of when
files were made, so that a run gives the same archive whenever it is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml

from prrmse.data.reading import naming, read_bytes
from prrmse.data.slices import load_slices
from prrmse.errors import InputError
from prrmse.files import atomic, sha256_of
from prrmse.run.manifest import CHECKOUT, MANIFEST, read_manifest
from prrmse.run.records import end_time, start_time

# What of the checkout is in the archive, as far as it is there.
FOLDERS = {
    "profiles": "Settings of Snakemake, for one machine and for SLURM",
    "src": "The package that the rules call",
    "workflow": "Rules and scripts of the workflow",
}
DOCUMENTS = ("Snakefile", "README.md", "LICENSE", "CITATION.cff", "environment.yml", "requirements.txt")
# Processed slices are images of patients: the archive has their hash, in the manifest, and not themselves.
WITHHELD = "data"

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
WORKFLOW_PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    WORKFLOW_PROFILE: "Workflow RO-Crate",
}
LANGUAGE = {
    "@id": "https://w3id.org/workflowhub/workflow-ro-crate#snakemake",
    "@type": "ComputerLanguage",
    "name": "Snakemake",
    "identifier": "https://doi.org/10.1093/bioinformatics/bts480",
    "url": "https://snakemake.readthedocs.io",
}
# Homes of what the manifest gives versions of.
SOFTWARE = {
    "python": "https://www.python.org/",
    "torch": "https://pytorch.org/",
    "torchvision": "https://docs.pytorch.org/vision/",
    "numpy": "https://numpy.org/",
    "pandas": "https://pandas.pydata.org/",
    "nibabel": "https://nipy.org/nibabel/",
    "seaborn": "https://seaborn.pydata.org/",
    "snakemake": "https://snakemake.github.io/",
    "dvc": "https://dvc.org/",
}
# Not by the standard library's `mimetypes`, which asks the machine.
FORMATS = {
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".tex": "text/x-tex",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
# By the beginning of a name, the first that fits.
DESCRIPTIONS = {
    "Snakefile": "The workflow: its rules are in workflow/rules, the code that they run in src",
    "README.md": "What the workflow does",
    "LICENSE": "Licence of the workflow",
    "CITATION.cff": "How to cite the workflow, and the papers whose method it implements",
    "environment.yml": "What the rules need, for conda",
    "requirements.txt": "What the rules need, each package by its version and hash",
    "params.yaml": "All parameters of the run, defaults filled in",
    "results/manifest.json": "Versions, machine, commit and parameters of the run, and the hash of every file it made",
    "results/checkpoints/": "Trained base model",
    "results/base/": "How good a base model is",
    "results/swap/": "One sweep: each pair of the target taken from the source, alone",
    "results/transfer/": "One training of the target with few patients",
    "results/tables/": "Table of the run",
    "results/figures/": "Figure of the run",
    "results/plots/": "Table for a chart of DVC",
    "results/metrics.json": "The run in few numbers",
    "results/report.html": "The run on one page",
}
# The first moment that an archive can name.
EPOCH = (1980, 1, 1, 0, 0, 0)

Entity = dict[str, Any]


class Member(NamedTuple):
    """A file of the archive: where it is now, or its content."""

    source: Path | bytes
    size: int
    sha256: str


def write_crate(path: str | Path, checkout: str | Path = CHECKOUT) -> None:
    """Write the run in the working folder as an archive, the same bytes for the same results.

    Args:
        path: of the archive. It holds what the manifest lists, but for `WITHHELD`, and the workflow; unpacked, it is a
            folder in which the workflow can be run again.
        checkout: where the workflow is.

    Raises:
        InputError: no manifest, a file that is not as the manifest says, or a ``CITATION.cff`` that cannot be read.
    """
    run = read_manifest(".")
    members = _results(run["files"]) | {"params.yaml": _member(_as_yaml(run["params"]))} | _workflow(Path(checkout))
    data = [load_slices(file).meta for file in run["files"] if file.startswith(f"{WITHHELD}/")]
    text = json.dumps(describe(run, _citation(Path(checkout)), members, data, _times(run["files"])), indent=1)
    first = {"ro-crate-metadata.json": _member(f"{text}\n".encode())}
    with atomic(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, member in [*first.items(), *sorted((members | _folders(members)).items())]:
            _pack(archive, name, member)


def _results(hashes: Mapping[str, str]) -> dict[str, Member]:
    """What the run made and is not withheld, each file compared with its hash in the manifest."""
    found = {MANIFEST.as_posix(): _member(MANIFEST)}
    for file, digest in hashes.items():
        read = _member(Path(file)) if Path(file).is_file() else None
        if read is None or read.sha256 != digest:
            raise InputError(f"{file}: not as {MANIFEST} says; run the workflow again")
        if not file.startswith(f"{WITHHELD}/"):
            found[file] = read
    return found


def _workflow(checkout: Path) -> dict[str, Member]:
    files = [checkout / name for name in DOCUMENTS if (checkout / name).is_file()]
    files += [path for folder in FOLDERS for path in (checkout / folder).rglob("*") if path.is_file()]
    names = [path.relative_to(checkout) for path in files]
    # Compiled files and what pip writes beside an editable package are of one machine.
    own = [n for n in names if not any(p == "__pycache__" or p.endswith(".egg-info") or p[0] == "." for p in n.parts)]
    return {name.as_posix(): _member(checkout / name) for name in own}


def _folders(members: Mapping[str, Member]) -> dict[str, Member]:
    """Entries for the folders that are described, which readers look for."""
    return {f"{name}/": _member(b"") for name in FOLDERS if any(member.startswith(f"{name}/") for member in members)}


def _member(source: Path | bytes) -> Member:
    if isinstance(source, bytes):
        return Member(source, len(source), hashlib.sha256(source).hexdigest())
    return Member(source, source.stat().st_size, sha256_of(source))


def _as_yaml(params: dict[str, Any]) -> bytes:
    return yaml.safe_dump(params, sort_keys=False, allow_unicode=True).encode()


def _pack(archive: zipfile.ZipFile, name: str, member: Member) -> None:
    """Store a file without compression, whose bytes depend on the library, and with nothing of this machine."""
    entry = zipfile.ZipInfo(name, EPOCH)
    mode = 0o40755 if name.endswith("/") else 0o100644
    entry.create_system, entry.external_attr, entry.file_size = 3, mode << 16, member.size
    source = member.source
    content = BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with content, archive.open(entry, "w") as target:
        shutil.copyfileobj(content, target)


def _citation(checkout: Path) -> dict[str, Any]:
    path, advice = checkout / "CITATION.cff", "restore it from the repository (https://citation-file-format.github.io)"
    content = read_bytes(path, advice)
    with naming(path, "a citation", advice):
        found = yaml.safe_load(content)
        texts = {key: str(found[key]) for key in ("title", "version", "license")}
        return {**found, **texts, "authors": _authors(found["authors"]), "references": _papers(found)}


def _times(files: Mapping[str, str]) -> tuple[float | None, float]:
    """When the first job of a run began and its last one ended, seconds since 1970, as Snakemake noted it."""
    begun = [start for file in files if (start := start_time(Path(), file)) is not None]
    # Without a note (a job of a group on a cluster, `--drop-metadata`) the file itself says when it was written.
    ended = end_time(Path(), MANIFEST.as_posix()) or MANIFEST.stat().st_mtime
    return min(begun, default=None), ended


def describe(
    run: dict[str, Any],
    citation: dict[str, Any],
    members: Mapping[str, Member],
    data: Sequence[dict[str, Any]],
    times: tuple[float | None, float],
) -> Entity:
    """The JSON-LD of a run.

    Args:
        run: its manifest.
        citation: the content of ``CITATION.cff``, its authors and references as entities.
        members: path -> every file of the archive beside the one with this description.
        data: the header of each processed data set.
        times: when the run began, if that is known, and when it ended, seconds since 1970.
    """
    folders = list(_folders(members))
    files = [name for name in sorted(members) if not name.startswith(tuple(folders))]
    inputs, software = [_data_set(meta) for meta in data], _software(run["environment"])
    authors, papers = citation["authors"], citation["references"]
    licence = _licence(citation["license"])
    action = _action(run, [name for name in files if name.startswith("results/")], inputs, times)
    workflow: Entity = {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": citation["title"],
        "version": _version(citation["version"], run),
        "programmingLanguage": _refer([LANGUAGE]),
        "license": _refer([licence]),
        "author": _refer(authors),
        "citation": _refer(papers),
        "softwareRequirements": _refer(software),
        "url": citation.get("repository-code"),
    }
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"A run of prrmse on {', '.join(meta['dataset'] for meta in data)}",
        "description": "Which pretrained CNN parameters can be reused, in which layers, and what is gained: tables, "
        "figures, checkpoints and the report of one run, with the workflow and the parameters that made them",
        "datePublished": _moment(times[1]),
        "license": _refer([licence]),
        "conformsTo": _refer([*PROFILES]),
        "mainEntity": _refer(["Snakefile"]),
        "mentions": _refer([action]),
        "hasPart": _refer([quote(name) for name in [*files, *folders]]),
    }
    descriptor: Entity = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": _refer(["./"]),
        "conformsTo": _refer([SPECIFICATION, WORKFLOW_PROFILE]),
    }
    entities = [descriptor, root, *(_file(name, members[name], workflow) for name in files)]
    entities += [_folder(name) for name in folders]
    entities += [action, *inputs, LANGUAGE, *software, licence, *authors, *papers]
    entities += [_profile(address, name) for address, name in PROFILES.items()]
    graph = [{key: value for key, value in entity.items() if value is not None} for entity in entities]
    return {"@context": CONTEXT, "@graph": graph}


def _refer(parts: Sequence[Entity | str]) -> Entity | list[Entity] | None:
    """References to entities, or to their ids: one is no list of one, and none is left out, so JSON-LD is compacted."""
    found = [{"@id": part if isinstance(part, str) else part["@id"]} for part in parts]
    return found if len(found) > 1 else found[0] if found else None


def _file(name: str, member: Member, workflow: Entity) -> Entity:
    described = next((text for start, text in DESCRIPTIONS.items() if name.startswith(start)), "Result of the run")
    own: dict[str, Entity] = {"Snakefile": workflow, "README.md": {"about": _refer(["./"])}}
    return {
        "@id": quote(name),
        "@type": "File",
        "name": name,
        "description": described,
        "encodingFormat": FORMATS.get(Path(name).suffix, "text/plain"),
        "contentSize": str(member.size),
        "sha256": member.sha256,
        **own.get(name, {}),
    }


def _folder(name: str) -> Entity:
    return {"@id": name, "@type": "Dataset", "name": name, "description": FOLDERS[name.rstrip("/")]}


def _profile(address: str, name: str) -> Entity:
    return {"@id": address, "@type": "CreativeWork", "name": name, "version": address.rsplit("/", 1)[1]}


def _data_set(meta: dict[str, Any]) -> Entity:
    origin = "a phantom that the workflow drew" if meta["provenance"] == "phantom" else f"{meta['provenance']} images"
    return {
        "@id": f"#data-{quote(meta['dataset'])}",
        "@type": "CreativeWork",
        "name": meta["dataset"],
        "description": f"Data set of format {meta['format']}, {origin}; not in this archive. Its identifier is the "
        f"SHA-256 of what sha256sum prints for its files, {meta['raw']['files']} in number",
        "identifier": f"sha256:{meta['raw']['sha256']}",
    }


def _software(environment: dict[str, str]) -> list[Entity]:
    return [
        {"@id": SOFTWARE[name], "@type": "SoftwareApplication", "name": name, "url": SOFTWARE[name]}
        | {"softwareVersion": version}
        for name, version in environment.items()
        if name in SOFTWARE and version != "not installed"
    ]


def _authors(found: Sequence[dict[str, Any]]) -> list[Entity]:
    entities = []
    for author in found:
        parts = [str(author[key]) for key in ("name", "given-names", "family-names") if author.get(key)]
        name = " ".join(parts)
        kind = "Organization" if "name" in author else "Person"
        identity = author.get("orcid") or author.get("website") or f"#{quote(name.replace(' ', '-'))}"
        entities.append({"@id": identity, "@type": kind, "name": name, "url": author.get("website")})
    return entities


def _papers(citation: dict[str, Any]) -> list[Entity]:
    found = [paper for paper in citation.get("references", []) if "url" in paper]
    return [{"@id": paper["url"], "@type": "ScholarlyArticle", "name": paper["title"]} for paper in found]


def _licence(identifier: str) -> Entity:
    described = f"Licence of the workflow, {identifier} by its SPDX identifier; its text is the file LICENSE"
    address = f"https://spdx.org/licenses/{quote(identifier)}"
    return {"@id": address, "@type": "CreativeWork", "name": identifier, "description": described}


def _version(released: str, run: dict[str, Any]) -> str:
    """The version of PEP 440 that names the commit, too, and whether sources were changed since."""
    if run["commit"] is None:
        return released
    return f"{released}+g{run['commit']}{'.changed' if run['changed'] else ''}"


def _action(
    run: dict[str, Any], results: Sequence[str], inputs: Sequence[Entity], times: tuple[float | None, float]
) -> Entity:
    system, cpu, gpu = (run["environment"].get(name, "unknown") for name in ("system", "cpu", "gpu"))
    changed = f", with changes in {', '.join(run['changed'])}" if run["changed"] else ""
    identity = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
    return {
        "@id": f"#run-{identity[:16]}",
        "@type": "CreateAction",
        "name": "The run of the workflow",
        "description": f"snakemake with params.yaml, commit {run['commit'] or 'unknown'}{changed}; on "
        f"{system}, {cpu}, GPU: {gpu}",
        "instrument": _refer(["Snakefile"]),
        "object": _refer(["params.yaml", *inputs]),
        "result": _refer([quote(name) for name in results]),
        "startTime": None if times[0] is None else _moment(times[0]),
        "endTime": _moment(times[1]),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()
