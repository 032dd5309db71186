"""Install requirements-dense.txt into the running environment; `make setup-dense` calls it.

mmcv's operators are C++ (and CUDA) compiled against the installed torch. pip would keep the built wheel under the name
of the source alone and hand it out again after torch has changed, so the wheel is kept here in a folder whose name
says what it was built against. A second environment on the same machine takes it from there.

    python tools/install_dense.py            compile where needed, install everything
    python tools/install_dense.py --where    print the folder of the wheel
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli
from engine.errors import TrainingFailed


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--where", action="store_true", help="print the folder of the compiled wheel and stop")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once


REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements-dense.txt"
COMPILED = "onedl-mmcv"
BUILD_TOOLS = ("setuptools", "wheel", "ninja")


def read_requirements(path: Path) -> dict[str, str]:
    """{package: requirement} of a requirements file, comments dropped."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    requirements = [line for line in lines if line]
    return {requirement.replace(">", "=").split("=")[0]: requirement for requirement in requirements}


def wheel_folder(requirement: str) -> Path:
    """Where the wheel built from `requirement` against the installed torch and python belongs."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (
        cache
        / "local-attention-wheels"
        / f"{requirement.replace('==', '-')}_torch-{torch.__version__}_{device}_{python}"
    )


def pip(*arguments: str, **environment: str) -> None:
    """Run pip quietly in this environment; its own error output says what failed."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def build_wheel(requirement: str, folder: Path) -> Path:
    """Compile `requirement` into `folder` unless its wheel lies there; returns the wheel."""
    found = sorted(folder.glob("*.whl"))
    if found:
        print(f"{requirement}: wheel found in {folder}")
        return found[0]
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    print(f"{requirement}: compiling against the installed torch with {jobs} jobs (7 minutes on 2 cores)", flush=True)
    start = time.perf_counter()
    flags = {"MAX_JOBS": jobs, "MMCV_WITH_OPS": "1", "CFLAGS": os.environ.get("CFLAGS", "-O1 -g0")}
    # No build isolation: the compiler must see the torch of this environment. No pip cache: see the top of the file.
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "-w", str(folder), requirement, **flags)
    print(f"{requirement}: compiled in {time.perf_counter() - start:.0f} s", flush=True)
    return next(folder.glob("*.whl"))


def install() -> None:
    """Build tools first, then the compiled wheel, then the rest; nothing outside the list is pulled in."""
    requirements = read_requirements(REQUIREMENTS)
    pip("install", *(requirements.pop(name) for name in BUILD_TOOLS))
    compiled = requirements.pop(COMPILED)
    wheel = build_wheel(compiled, wheel_folder(compiled))
    pip("install", "--no-deps", "--force-reinstall", str(wheel))
    pip("install", "--no-deps", "--no-build-isolation", *requirements.values())


@cli.command("install_dense")
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.where:
        print(wheel_folder(read_requirements(REQUIREMENTS)[COMPILED]))
        return 0
    try:
        install()
    except subprocess.CalledProcessError as error:
        raise TrainingFailed(f"pip failed with status {error.returncode} (its output is above)") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
