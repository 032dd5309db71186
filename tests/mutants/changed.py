"""A copy of the checkout whose modules hold all their mutants at once; mutmut makes them, a variable chooses one."""

import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mutmut.configuration import reset_config
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents

from tests.mutants.suite import Group

_MUTANT = re.compile(r"^ *def (x\S*__mutmut_[0-9]+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """What a mutant changes: the function, its lines before, and after."""

    where: str
    was: str
    now: str


class ChangedCheckout:
    """The copy in ``folder``. Mutants of a module that has not changed since the last time are kept."""

    def __init__(self, root: Path, folder: Path, groups: list[Group]) -> None:
        self.folder = folder
        command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        self._modules = [name for name in listed if any(group.covers(name) for group in groups)]
        for name in (name for name in listed if (root / name).is_file()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name not in self._modules:
                shutil.copy2(root / name, folder / name)
                (folder / f"{name}.source").unlink(missing_ok=True)  # of a time when it was one of the modules
        with (folder / "pyproject.toml").open("a") as file:
            file.write(
                f"\n[tool.mutmut]\nsource_paths = {json.dumps(sorted({n.split('/')[0] for n in self._modules}))}\n"
            )
        for name in self._modules:
            self._mutate(root / name, name)

    def _mutate(self, path: Path, name: str) -> None:
        source, made, kept = path.read_text(encoding="utf-8"), self.folder / name, self.folder / f"{name}.source"
        if not kept.is_file() or kept.read_text(encoding="utf-8") != source:
            with self._here():
                made.write_text(mutate_file_contents(name, source).code, encoding="utf-8")
            kept.write_text(source, encoding="utf-8")

    @contextmanager
    def _here(self) -> Iterator[None]:
        """mutmut reads its options in the folder that it is used in, once."""
        reset_config()
        with chdir(self.folder):
            yield

    def modules(self, group: Group) -> list[str]:
        """The modules of a group."""
        return [name for name in self._modules if group.covers(name)]

    def mutants(self, module: str) -> list[str]:
        """The names of all mutants of a module."""
        dotted = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        code = (self.folder / module).read_text(encoding="utf-8")
        return [f"{dotted}.{name}" for name in _MUTANT.findall(code)]

    def sample(self, module: str, size: int, seed: int) -> list[str]:
        """So many mutants of a module by chance, the same ones each time; all of them where ``size`` is 0."""
        names = self.mutants(module)
        return sorted(random.Random(f"{seed} {module}").sample(names, size)) if 0 < size < len(names) else names

    def change(self, module: str, mutant: str) -> Change:
        """What a mutant of a module changes."""
        where = mutant.partition("__mutmut_")[0].replace(".x_", ".").replace(".xǁ", ".").replace("ǁ", ".")
        with self._here():
            source = Path(module).read_text(encoding="utf-8")
            lines = get_diff_for_mutant(mutant, source=source, path=Path(module)).splitlines()[2:]
        was, now = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
        return Change(where, was, now)
