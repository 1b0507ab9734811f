"""Run every layer that guards the project, in order, and end with one table: `make test`.

Fast layers run first, so that a mistake shows early. A layer that fails does not stop the next ones; the exit
code says whether all passed. A name given as an argument runs that layer alone: `run_layers.py tests`. `run_layers.py
check` is for the work itself, in under a minute: lint, types, and the quick tests that import what has changed.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
LAYERS: dict[str, list[str]] = {
    "lint": ["-m", "ruff", "check", "."],
    "format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-m", "mypy"],
    "tests": [*PYTEST, "tests", "-m", "not browser and not notebook", "-n", "2", "--dist", "loadfile"],
    "notebooks": [*PYTEST, "tests", "-m", "notebook"],
    "nbval": [*PYTEST, "--nbval-lax", "notebooks", "-n", "2", "--dist", "loadfile"],
    "browser": [*PYTEST, "tests/browser", "-m", "browser"],
}


CHECK = ("lint", "format", "types", "changed")


def tests_of_changes() -> list[str]:
    """Test files that have changed since the branch left main (on main: since the last commit), or import what has."""

    def git(*arguments: str) -> list[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.split()

    (base,) = git("merge-base", "HEAD", "main") or ["HEAD"]
    changed = [*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")]
    changed = changed or git("diff", "--name-only", "HEAD~1")
    modules = [path.removesuffix(".py").replace("/", ".") for path in changed if path.startswith("transkd_lite/")]
    tests = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")}
    return [
        path for path, text in tests.items() if path in changed or any(f"{name} import" in text for name in modules)
    ]


def run(layer: str) -> tuple[str, bool, float]:
    """Run one layer as a process of its own; return its name, whether it passed, and its seconds."""
    print(f"\n=== {layer}: python {' '.join(LAYERS[layer])}", flush=True)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    start = time.monotonic()
    code = subprocess.run([sys.executable, *LAYERS[layer]], cwd=ROOT, env={**os.environ, **threads}).returncode
    return layer, code == 0, time.monotonic() - start


def main() -> int:
    names = sys.argv[1:] or list(LAYERS)
    if names == ["check"]:
        names = list(CHECK)
        quick = ["-m", "not browser and not notebook and not slow", "-n", "2", "--dist", "loadfile"]
        LAYERS["changed"] = [*PYTEST, *(tests_of_changes() or ["tests/test_packaging.py"]), *quick]
    unknown = [name for name in names if name not in LAYERS]
    if unknown:
        print(f"unknown layer {unknown[0]!r}; the layers are {', '.join(LAYERS)}")
        return 2
    results = [run(layer) for layer in names]
    print("\nlayer       result  seconds")
    for layer, passed, seconds in results:
        print(f"{layer:<12}{'passed' if passed else 'FAILED':<8}{seconds:7.0f}")
    failed = sum(not passed for _, passed, _ in results)
    print(f"\n{len(results) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
