"""Run every layer that guards the project, two at a time, and end with one table: `make test`.

Fast layers start first, so that a mistake shows early, and the browser last, when a core is free for its pages. What a
layer prints is shown when it ends. A layer that fails does not stop the next ones; the exit code says whether all
passed. A name given as an argument runs that layer alone: `run_layers.py tests`. `run_layers.py check` is for the work
itself, in under a minute: lint, types, and the quick tests that import what has changed.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
ON_BOTH_CORES = ["-n", "2", "--dist", "loadfile"]
SMALL = "tests/notebooks/test_smoke.py"
LAYERS: dict[str, list[str]] = {
    "lint": ["-m", "ruff", "check", "."],
    "format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-m", "mypy"],
    "tests": [*PYTEST, "tests", "-m", "not browser and not notebook", *ON_BOTH_CORES],
    "batches": ["tests/warm_kernels.py", *PYTEST, "tests", "-m", "notebook", "--ignore", SMALL],
    "notebooks": [
        "tests/warm_kernels.py", *PYTEST, "--nbval-lax", "--nbval-kernel-startup-timeout=600", "notebooks", SMALL,
        *ON_BOTH_CORES,
    ],
    "browser": ["tests/warm_kernels.py", *PYTEST, "tests/browser", "-m", "browser"],
}  # fmt: skip
# glibc gives memory back at every large free unless told otherwise, and a training pays a tenth of its time for it.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
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
    print(f"=== {layer} starts: python {' '.join(LAYERS[layer])}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        command = [sys.executable, *LAYERS[layer]]
        code = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | os.environ, stdout=log, stderr=log).returncode
        log.seek(0)
        print(f"\n=== {layer}\n{log.read()}", flush=True)
    return layer, code == 0, time.monotonic() - start


def main() -> int:
    names = sys.argv[1:] or list(LAYERS)
    if names == ["check"]:
        names = list(CHECK)
        quick = ["-m", "not browser and not notebook and not slow", *ON_BOTH_CORES]
        LAYERS["changed"] = [*PYTEST, *(tests_of_changes() or ["tests/test_packaging.py"]), *quick]
    unknown = [name for name in names if name not in LAYERS]
    if unknown:
        print(f"unknown layer {unknown[0]!r}; the layers are {', '.join(LAYERS)}")
        return 2
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, names))
    print("\nlayer       result  seconds")
    for layer, passed, seconds in results:
        print(f"{layer:<12}{'passed' if passed else 'FAILED':<8}{seconds:7.0f}")
    failed = sum(not passed for _, passed, _ in results)
    print(f"\n{len(results) - failed} passed, {failed} failed in {time.monotonic() - start:.0f} seconds")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
