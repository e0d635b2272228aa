"""A run as a Workflow Run RO-Crate: every file that it names is there, and every reference leads somewhere."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import zipfile
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from tiny import ROOT

from prrmse.config.params import plain, read_params
from prrmse.data.slices import Slices, save_slices
from prrmse.errors import InputError
from prrmse.files import sha256_of
from prrmse.run.crate import CONTEXT, SOFTWARE, SPECIFICATION, write_crate
from prrmse.run.manifest import MANIFEST, PACKAGES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ENVIRONMENT = {"python": "3.11.7", "system": "Linux x86_64", "cpu": "a CPU", "gpu": "none", "dvc": "not installed"}
TABLE = "results/tables/one.csv"
PROFILE = "https://w3id.org/ro/wfrun/workflow/0.5"


def read(path):
    """What a crate holds by name, and its entities by @id, checked against what RO-Crate and the profile require."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(files.pop("ro-crate-metadata.json"))
    assert described["@context"] == CONTEXT
    entities = {entity["@id"]: entity for entity in described["@graph"]}
    assert len(entities) == len(described["@graph"]), "an @id is there twice"
    assert set(references(described["@graph"])) - set(entities) == {SPECIFICATION}
    check_files(entities, files)
    check_run(entities)
    return files, entities


def references(value):
    """Every @id that is referred to, inside of entities."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        if isinstance(part, dict) and set(part) == {"@id"}:
            yield part["@id"]
        assert not isinstance(part, list) or len(part) != 1, "a list of one"
        assert part is not None
        yield from references(part)


def ids(value):
    return [part["@id"] for part in (value if isinstance(value, list) else [value])]


def check_files(entities, files):
    data = {key: x for key, x in entities.items() if {"File", "Dataset"} & set(types(x)) and key != "./"}
    assert sorted(data) == sorted(ids(entities["./"]["hasPart"]))
    folders = tuple(key for key in data if key.endswith("/"))
    assert set(folders) == {"profiles/", "src/", "workflow/"}
    assert {unquote(key) for key in data} == {n for n in files if n in folders or not n.startswith(folders)}
    for key, entity in data.items():
        assert {"name", "description"} <= set(entity)
        if key not in folders:
            content = files[unquote(key)]
            assert entity["sha256"] == hashlib.sha256(content).hexdigest(), key
            assert int(entity["contentSize"]) == len(content), key
            assert "/" in entity["encodingFormat"]
    assert not [name for name in files if "__pycache__" in name or name.startswith(("data/", "/", "."))]


def types(entity):
    return entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]


def check_run(entities):
    descriptor, root, workflow = (entities[key] for key in ("ro-crate-metadata.json", "./", "Snakefile"))
    assert ids(descriptor["about"]) == ["./"]
    assert SPECIFICATION in ids(descriptor["conformsTo"])
    assert PROFILE in ids(root["conformsTo"])
    assert all(entities[profile]["@type"] == "CreativeWork" for profile in ids(root["conformsTo"]))
    assert all(root[key] for key in ("name", "description", "license"))
    assert ids(root["mainEntity"]) == ["Snakefile"]
    assert types(workflow) == ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
    (language,) = ids(workflow["programmingLanguage"])
    assert (entities[language]["@type"], entities[language]["name"]) == ("ComputerLanguage", "Snakemake")
    (action,) = (entities[key] for key in ids(root["mentions"]))
    assert action["@type"] == "CreateAction"
    assert ids(action["instrument"]) == ["Snakefile"]
    assert {key for key in entities if key.startswith("results/")} == set(ids(action["result"]))
    assert "params.yaml" in ids(action["object"])
    ended = datetime.fromisoformat(action["endTime"])
    assert ended == datetime.fromisoformat(root["datePublished"])
    assert datetime.fromisoformat(action.get("startTime", action["endTime"])) <= ended


@pytest.mark.workflow
def test_a_run_is_a_crate_the_same_bytes_at_any_time(whole_run, tmp_path):
    folder = whole_run.copy(tmp_path / "run")
    before = {path: sha256_of(path) for path in (folder.path / "results").rglob("*") if path.is_file()}
    folder.must("snakemake", "--cores", "1", "crate")
    assert {path: sha256_of(path) for path in before} == before
    made = folder.path / "results/run.crate.zip"
    files, entities = read(made)
    run = json.loads((folder.path / MANIFEST).read_text())
    for file, digest in run["files"].items():
        if file.startswith("results/"):
            assert entities[file]["sha256"] == digest
    assert {x["name"]: x["softwareVersion"] for x in entities.values() if x["@type"] == "SoftwareApplication"} == {
        name: run["environment"][name] for name in SOFTWARE
    }
    assert entities["#data-acdc"]["description"].startswith("Data set of format acdc, a phantom")
    assert all(x["startTime"] < x["endTime"] for x in entities.values() if x["@type"] == "CreateAction")
    (tmp_path / "params.yaml").write_bytes(files["params.yaml"])
    # Where the points of curves go, and the image that jobs run in, decide no result and are not in the manifest.
    again = {**run["params"], "tracking": "none", "container": None}
    assert plain(read_params(tmp_path / "params.yaml")) == again, "unpacked, the run can be done again"
    folder.scatter_times(random.Random(0))
    folder.must("python", "workflow/scripts/crate.py", "--manifest", str(MANIFEST), "--crate", "again.zip")
    assert (folder.path / "again.zip").read_bytes() == made.read_bytes()


@pytest.fixture
def here(tmp_path, monkeypatch, slices):
    """A run of two files and its checkout, in the working folder."""
    monkeypatch.chdir(tmp_path)
    meta = slices.meta | {"format": "nnunet", "provenance": "real", "raw": {"files": 3, "sha256": "ab"}}
    made = {"data/processed/squares.npz": "", TABLE: "x\n1\n"}
    for name, text in made.items():
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(text)
    save_slices(Slices(slices.image, slices.label, slices.index, meta), "data/processed/squares.npz")
    files = {name: sha256_of(name) for name in made}
    write_manifest(files=files)
    for name in ("profiles/default/profile.yaml", "src/prrmse/__init__.py", "workflow/rules/a.smk", "Snakefile"):
        Path("checkout", name).parent.mkdir(parents=True, exist_ok=True)
        Path("checkout", name).write_text(f"# {name}\n")
    for unwanted in ("src/prrmse/__pycache__/a.pyc", "src/prrmse.egg-info/a", "workflow/.hidden"):
        Path("checkout", unwanted).parent.mkdir(exist_ok=True)
        Path("checkout", unwanted).write_text("mine")
    cite()
    return tmp_path


def write_manifest(**changes):
    content = {"commit": None, "changed": None, "environment": ENVIRONMENT, "params": {"seeds": [0]}, "files": {}}
    MANIFEST.write_text(json.dumps(content | changes))
    os.utime(MANIFEST, (0, 86400))


def cite(**changes):
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    Path("checkout/CITATION.cff").write_text(yaml.safe_dump(content | changes))


def crate():
    write_crate("run.crate.zip", "checkout")
    return read("run.crate.zip")


def test_images_of_patients_and_what_is_of_one_machine_stay_out(here):
    files, entities = crate()
    assert b"mine" not in b"".join(files.values())
    assert entities["#data-squares"]["description"].startswith("Data set of format nnunet, real images; not in this")
    assert entities["#data-squares"]["identifier"] == "sha256:ab"
    assert files["workflow/rules/a.smk"] == b"# workflow/rules/a.smk\n"


def test_a_name_is_an_address_where_it_is_an_id(here):
    odd = Path("results/tables/one two.csv")
    odd.write_text("x\n2\n")
    write_manifest(files={str(odd): sha256_of(odd)})
    files, entities = crate()
    assert files[str(odd)] == b"x\n2\n"
    assert entities["results/tables/one%20two.csv"]["name"] == str(odd)


def test_what_the_run_cannot_say_is_left_out_and_what_is_known_is_said(here):
    _, entities = crate()
    (action,) = (x for x in entities.values() if x["@type"] == "CreateAction")
    assert "startTime" not in action
    assert action["endTime"] == "1970-01-02T00:00:00+00:00", "without a note, the time of the manifest"
    assert "commit unknown" in action["description"]
    assert entities["Snakefile"]["version"] == "0.1.0"
    assert "url" not in entities["Snakefile"]
    assert "https://dvc.org/" not in entities, "not installed"
    ada = {"given-names": "Ada", "family-names": "Byron", "orcid": "https://orcid.org/0000-0000-0000-0001"}
    cite(authors=[ada, {"name": "A lab"}], **{"repository-code": "https://example.org/prrmse"})
    write_manifest(files=json.loads(MANIFEST.read_text())["files"], commit=COMMIT, changed=["src/a.py"])
    _, entities = crate()
    assert entities["Snakefile"]["version"] == f"0.1.0+g{COMMIT}.changed"
    assert entities["Snakefile"]["url"] == "https://example.org/prrmse"
    assert ids(entities["Snakefile"]["author"]) == [ada["orcid"], "#A-lab"]
    assert [entities[x]["@type"] for x in (ada["orcid"], "#A-lab")] == ["Person", "Organization"]
    assert any("with changes in src/a.py" in x.get("description", "") for x in entities.values())


@pytest.mark.parametrize("damage", ["changed", "gone", "no citation", "half a citation", "outside"])
def test_what_is_not_as_recorded_is_refused_in_one_line(here, damage):
    table, citation = Path(TABLE), Path("checkout/CITATION.cff")
    if damage == "changed":
        table.write_text("x\n2\n")
    elif damage == "gone":
        table.unlink()
    elif damage == "no citation":
        citation.unlink()
    elif damage == "half a citation":
        cite(authors=["Ada"])
    else:
        write_manifest(files={"../secret": "ab"})
    expected = {"changed": table, "gone": table, "outside": MANIFEST}.get(damage, citation)
    with pytest.raises(InputError, match=rf"^{re.escape(str(expected))}: "):
        write_crate("run.crate.zip", "checkout")
    assert not Path("run.crate.zip").exists()


def test_every_package_of_the_manifest_has_a_home():
    assert set(SOFTWARE) == {"python", *PACKAGES}
