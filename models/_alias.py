"""One zoo in a process, under two names: ``models`` in a checkout is ``localmixer``, as it is called when installed.

A second copy of the operators cannot be registered with torch beside the first, so it is refused in one line.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

INSTALLED, CHECKOUT = "localmixer", "models"


class _SameModule(Loader):
    """Gives ``localmixer.x`` the module ``models.x``."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the alias there


class _Alias(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, dot, rest = name.partition(".")
        if package != INSTALLED:
            return None
        module = import_module(CHECKOUT + dot + rest)
        return ModuleSpec(name, _SameModule(module), is_package=hasattr(module, "__path__"))


def one_zoo(name: str) -> None:
    """Called by the package as it is imported, with its ``__name__``.

    Raises:
        ImportError: the zoo is in this process already, from another folder or by its other name.
    """
    if name != CHECKOUT:
        return  # `models` is then the user's, or not there
    other = sys.modules.get(INSTALLED)
    if other is not None:
        folder = Path(other.__file__ or "?").parent
        raise ImportError(f"the zoo is imported already, as {INSTALLED} from {folder}; import it by one name")
    if not any(isinstance(finder, _Alias) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Alias())
