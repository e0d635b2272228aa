"""The record of the run: versions, device, commit, parameters, and a hash of every file."""

import json
from argparse import Namespace

from prrmse.config.params import plain
from prrmse.files import write_text
from prrmse.run.job import run
from prrmse.run.manifest import manifest


def main(a: Namespace) -> None:
    write_text(json.dumps(manifest(plain(a.params), a.files), indent=1) + "\n", a.manifest)


run(main, "params", "manifest", lists=["files"])
