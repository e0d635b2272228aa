#!/usr/bin/env python3
"""Make a tiny conda channel on disk, without conda and without a network: make_channel.py DIR [PYTHON]

Packages: feasdemo (a program and an activate.d script), pip (the wheel that the interpreter bundles; conda adds it to
every environment with python) and python (a shell around the interpreter PYTHON, so that a rule with `conda:` runs it
and sees the modules of that interpreter's own environment).
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

Content = bytes | Path  # a Path is the target of a symbolic link
Record = tuple[str, dict[str, Any]]
TIME = 1700000000
ASK = "import os, platform, site, sys; print(os.path.realpath(sys.executable), platform.python_version(), \
site.getsitepackages()[0], sep='\\n')"


def package(
    channel: Path, name: str, version: str, build: str, files: dict[str, Content], depends: tuple[str, ...] = ()
) -> Record:
    """Write one package; its file name and its record for the channel's index."""
    subdir = "noarch" if name == "feasdemo" else "linux-64"
    index: dict[str, Any] = {"name": name, "version": version, "build": build, "build_number": 0, "subdir": subdir}
    index |= {"depends": list(depends), "license": "MIT", "timestamp": TIME * 1000}
    index |= {"noarch": "generic"} if subdir == "noarch" else {"arch": "x86_64", "platform": "linux"}
    paths = [_path_entry(path, content) for path, content in sorted(files.items())]
    documents = {
        "info/index.json": json.dumps(index),
        "info/files": "".join(f"{path}\n" for path in sorted(files)),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
        "info/about.json": "{}",
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in [*((p, text.encode()) for p, text in documents.items()), *sorted(files.items())]:
            entry = tarfile.TarInfo(path)
            entry.mtime = TIME
            if isinstance(content, Path):
                entry.type, entry.linkname = tarfile.SYMTYPE, str(content)
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(content), 0o755 if path.startswith("bin/") else 0o644
                archive.addfile(entry, io.BytesIO(content))
    data = bz2.compress(raw.getvalue())
    file = channel / subdir / f"{name}-{version}-{build}.tar.bz2"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    sums = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return file.name, {**index, **sums}


def _path_entry(path: str, content: Content) -> dict[str, Any]:
    data = b"" if isinstance(content, Path) else content
    kind = "softlink" if isinstance(content, Path) else "hardlink"
    return {"_path": path, "path_type": kind, "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}


def main(folder: str, python: str = sys.executable) -> None:
    """Write the channel and print the names of its packages."""
    channel = Path(folder)
    real, version, site = (Path(x) for x in subprocess.check_output([python, "-c", ASK], text=True).splitlines())
    minor = ".".join(str(version).split(".")[:2])
    home = real.parent
    bundled = home.parent / f"lib/python{minor}/ensurepip/_bundled"
    folders = [bundled, Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled)]  # Debian's are elsewhere
    wheel = next((path for folder in folders for path in folder.glob("pip-*.whl")), None)
    if wheel is None:
        looked = " or ".join(map(str, dict.fromkeys(folders)))
        sys.exit(f"error: no wheel of pip in {looked}; it comes with ensurepip (Debian: python3-venv)")
    with zipfile.ZipFile(wheel) as z:
        pip: dict[str, Content] = {
            f"lib/python{minor}/site-packages/{name}": z.read(name) for name in z.namelist() if not name.endswith("/")
        }
    pip["bin/pip"] = b'#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n'
    shell: dict[str, Content] = {
        "bin/python": real,
        "bin/python3": Path("python"),
        f"bin/python{minor}": Path("python"),
        "pyvenv.cfg": f"home = {home}\ninclude-system-site-packages = false\nversion = {version}\n".encode(),
        f"lib/python{minor}/site-packages/_host.pth": f"{site}\n".encode(),
    }
    demo: dict[str, Content] = {
        "bin/feasdemo": b"#!/bin/sh\necho feasdemo 1.0 from $0 prefix $CONDA_PREFIX\n",
        "etc/conda/activate.d/feasdemo.sh": b"export FEASDEMO=on\n",
    }
    tag = minor.replace(".", "")
    records = [
        package(channel, "feasdemo", "1.0", "0", demo),
        package(channel, "python", str(version), "venv_0", shell),
        package(channel, "pip", wheel.name.split("-")[1], f"py{tag}_0", pip, (f"python {minor}.*",)),
    ]
    for subdir in ("noarch", "linux-64"):
        packages = {file: record for file, record in records if record["subdir"] == subdir}
        index = {"info": {"subdir": subdir}, "packages": packages, "packages.conda": {}, "repodata_version": 1}
        (channel / subdir / "repodata.json").write_text(json.dumps(index, indent=1))
    print(channel, *(file for file, _ in records))


if __name__ == "__main__":
    main(*sys.argv[1:])
