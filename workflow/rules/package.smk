"""Where the package is; and the parameter files, checked before Snakemake's own reader takes them."""

import subprocess
import sys
import tempfile
from pathlib import Path


def checkout(source):
    """Where the workflow is, which Snakemake reads from a folder or, as `github(...)` or `gitfile(...)`, from git."""
    if not hasattr(source, "ref"):
        return Path(str(source)).resolve().parents[1]
    clone = getattr(source, "repo_path", None) or source.hosted_repo.repo.git_dir
    git = ["git", "-C", str(clone)]
    commit = subprocess.check_output(
        [*git, "rev-parse", f"{source.ref}^{{commit}}"], text=True
    ).strip()
    folder = Path(".snakemake/prrmse", commit).resolve()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            subprocess.run(["git", "clone", "-q", "-n", clone, partial], check=True)
            subprocess.run(["git", "-C", partial, "checkout", "-q", commit], check=True)
            Path(partial).rename(folder)
            Path(partial).mkdir()  # for the end of the block to remove
    return folder


# The working folder, which holds the parameters and results, may be another: `--directory`, `-s`, or a `module:` of
# another Snakefile.
ROOT = checkout(workflow.current_basedir)
SRC, SCRIPTS = ROOT / "src", ROOT / "workflow" / "scripts"
# The package is found without being installed, also in a rule's own conda environment.
sys.path.insert(0, str(SRC))

# Snakemake takes the last of two equal keys without a word, and runs `?expressions` of a file with `__use_yte__: true`.
# (Files of --configfile it has read by now.) In a module the parameters are those of another workflow's own files. The
# processes that run single jobs, on a cluster one each, need no second check.
if workflow.is_main_process and not workflow.modifier.skip_configfile:
    from prrmse.config.params import check_files
    from prrmse.errors import InputError

    try:
        check_files("params.yaml", *workflow.overwrite_configfiles)
    except InputError as e:
        raise WorkflowError(f"error: {e}") from None
