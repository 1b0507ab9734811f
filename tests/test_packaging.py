"""What a user installs is said once: pyproject.toml, environment.yml and requirements.lock agree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import transkd_lite as tk

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["book"]]


def test_environment_yml_lists_the_same_dependencies():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert [item for item in pip if not item.startswith("--")] == REQUIREMENTS


def test_lock_pins_every_dependency_and_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {match.lower() for match in re.findall(r"^([A-Za-z0-9_.-]+)==", lock, flags=re.M)}
    wanted = {re.match(r"[A-Za-z0-9_.-]+", item)[0].lower().replace("_", "-") for item in REQUIREMENTS}
    assert wanted <= pinned
    assert not re.findall(r"--(?:extra-)?index-url|https?://", lock)


def test_what_is_no_module_is_packaged_too():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package, packaged = ROOT / "transkd_lite", setuptools["package-data"]["transkd_lite"]
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {path.relative_to(package).as_posix() for path in files} == {*packaged}


def test_version_is_said_once():
    assert tk.__version__ == PROJECT["version"]


@pytest.mark.parametrize("module", ["torch", "datasets", "matplotlib", "papermill", "ipywidgets", "dask", "timm"])
def test_import_is_light(module):
    code = f"import sys, transkd_lite; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_exists():
    missing = [name for name in tk.__all__ if not hasattr(tk, name)]
    assert not missing


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(AttributeError, match="create_model"):
        tk.create_modle  # noqa: B018


def test_no_module_hides_a_public_name():
    modules = {path.stem for path in (ROOT / "transkd_lite").iterdir()}
    assert not modules & set(tk.__all__)


def test_a_wheel_brings_the_course_along(tmp_path):
    source, installed = tmp_path / "source", tmp_path / "installed"
    for name in ("transkd_lite", "notebooks", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = ["wheel", str(source), "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", *wheel], check=True)
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(installed)
    course = installed / "transkd_lite" / "course"
    for path in (*ROOT.glob("notebooks/**/*.*"), *ROOT.glob("data/**/*.*"), *ROOT.glob("transkd_lite/**/*.py")):
        if path.is_file() and not {"book", ".ipynb_checkpoints"} & set(path.parts):
            place = installed if path.suffix == ".py" else course
            assert (place / path.relative_to(ROOT)).is_file(), path
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(*arguments):
        command = [sys.executable, "-m", "transkd_lite.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "demo, " in run("reproduce", "--help").stdout
    assert (run("notebooks").returncode, run("notebooks", "--copy", "mine").returncode) == (2, 0)
    assert (tmp_path / "mine" / "profiles" / "demo.yaml").is_file()
    assert run("notebooks", "--copy", "mine").returncode == 2
