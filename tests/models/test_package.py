"""One package with one name when it is installed, and one copy of it in a process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def python(code: str, folder: Path, *path: Path) -> str:
    """Run code in ``folder`` with nothing but ``path`` before the installed packages; its output, errors included."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "TORCH_HOME": str(folder / "hub")}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `pip install .` installs."""
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    shutil.copytree(root / "models", source / "models")
    (source / "data").mkdir()  # must not be picked up
    (source / "data" / "__init__.py").touch()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(folder / "site"), str(source)], check=True)
    return folder / "site"


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A project with packages of the names that a checkout of this one has."""
    for name in ("models", "engine", "data", "tools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n", encoding="utf-8")
    return tmp_path


def test_only_localmixer_is_installed(site: Path) -> None:
    assert sorted(p.name for p in site.iterdir() if p.suffix != ".dist-info") == ["localmixer"]


def test_it_stands_beside_a_users_own_packages(site: Path, user: Path) -> None:
    code = (
        "import localmixer, timm, models, engine, data, tools\n"
        "assert models.MINE and engine.MINE and data.MINE and tools.MINE\n"
        "maps = timm.create_model('dw_conv_nano', features_only=True)\n"
        "import localmixer.theory.measure, localmixer.cost, sys\n"
        "print(len(maps.feature_info), [m for m in sys.modules if m.startswith('models.')])"
    )
    assert python(code, user, user, site) == "4 []\n"


@pytest.mark.dense
def test_a_config_of_mmdet_finds_the_backbone_without_the_checkout(site: Path, user: Path) -> None:
    code = (
        "from mmengine.config import Config\n"
        "Config(dict(custom_imports=dict(imports=['localmixer.mm'], allow_failed_imports=False)))\n"
        "from mmengine.utils import import_modules_from_strings\n"
        "import_modules_from_strings(imports=['localmixer.mm'])\n"
        "from mmdet.registry import MODELS as detection\n"
        "from mmseg.registry import MODELS as segmentation\n"
        "import torch\n"
        "for registry in (detection, segmentation):\n"
        "    net = registry.build(dict(type='ZooBackbone', name='dw_conv_nano'))\n"
        "    print(type(net).__module__, [tuple(m.shape[1:]) for m in net(torch.zeros(1, 3, 64, 64))][0])"
    )
    assert python(code, user, user, site).splitlines()[-2:] == ["localmixer.mm (32, 16, 16)"] * 2


def test_in_a_checkout_both_names_are_the_same_modules(repo: Path, tmp_path: Path) -> None:
    code = (
        "import models, localmixer, localmixer.ops.backend, localmixer.theory.measure, models.theory.measure\n"
        "assert localmixer is models and localmixer.theory.measure is models.theory.measure\n"
        "from localmixer.ops import backend; import models.ops.backend\n"
        "assert backend is models.ops.backend and backend.__spec__.name == 'models.ops.backend'\n"
        "from models.mixers import list_mixers; from localmixer.mixers import list_mixers as same\n"
        "print(list_mixers is same)"
    )
    assert python(code, tmp_path, repo) == "True\n"


def test_two_copies_in_a_process_are_refused_in_a_line(repo: Path, site: Path, tmp_path: Path) -> None:
    said = python("import localmixer\nimport models", tmp_path, site, repo).splitlines()[-1]
    assert (
        said
        == f"ImportError: the zoo is imported already, as localmixer from {site / 'localmixer'}; import it by one name"
    )
    said = python("import models, localmixer; print(localmixer.__file__)", tmp_path, repo, site)
    assert said == f"{repo / 'models' / '__init__.py'}\n"  # the checkout came first: the installed one is never loaded


@pytest.mark.parametrize("first", ["import models; ", "import localmixer; "])
def test_torch_hub_loads_it_whatever_the_user_calls_models(first: str, repo: Path, site: Path, user: Path) -> None:
    code = (
        f"{first}import torch\n"
        f"net = torch.hub.load({str(repo)!r}, 'dw_conv_nano', source='local', num_classes=3).eval()\n"
        "print(net(torch.zeros(1, 3, 32, 32)).shape)"
    )
    said = python(code, user, *([user, site] if "localmixer" in first else [user])).splitlines()[-1]
    if "localmixer" in first:
        assert said.startswith("ImportError: the zoo is imported already, as localmixer from ")
    else:
        assert said == "torch.Size([1, 3])"
