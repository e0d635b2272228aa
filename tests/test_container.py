"""`--sdm apptainer` with an image of one's own, by a stand-in for Apptainer; without the setting there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Folder, rules

from prrmse.config.checks import check_container
from prrmse.errors import InputError

pytestmark = pytest.mark.workflow


def test_an_image_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prrmse.sif").touch()
    for image in (None, "prrmse.sif", "docker://registry/prrmse:1"):
        check_container(image)
    with pytest.raises(InputError, match="container: other.sif: no such file; build it"):
        check_container("other.sif")


class WithApptainer(Folder):
    """A folder beside a stand-in for Apptainer."""

    @property
    def environment(self) -> dict[str, str]:
        own = super().environment
        return {**own, "PATH": f"{Path(__file__).parent / 'container'}:{own['PATH']}"}


def test_the_image_reaches_every_job_that_asks_for_it_and_plans_none(tmp_path):
    assert {rule.container_img for rule in rules()} == {None}, "no image is published"
    folder = WithApptainer(tmp_path)
    made, jobs = "data/processed/t1.npz", ["--sdm", "apptainer", "--config", "container=prrmse.sif"]
    (tmp_path / "prrmse.sif").touch()
    folder.must("snakemake", "--cores", "1", made, *jobs)
    assert (tmp_path / "images.txt").read_text().splitlines() == ["prrmse.sif"] * 2, "phantom, prepare"
    assert (tmp_path / made).stat().st_size > 1000
    assert folder.planned(made) == {}
    assert {rule.container_img for rule in rules(container=str(tmp_path / "prrmse.sif")) if rule.shellcmd} == {
        str(tmp_path / "prrmse.sif")
    }
