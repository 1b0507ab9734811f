"""Kill runs whose teacher is cached, many times, and see that every one ends with the bits of a run that was not
killed.

    PYTHONPATH=tests/faults python tests/benchmarks/cached_kills.py --kills 100

For fp32 and bf16, with 0 and 2 loader processes, with the answers in memory and in a file: a run is killed before a
change of its folder or of the cache's, drawn at random, then goes on to its end. Afterwards weights and history must
be equal, and nothing may be left in the cache but the whole file.
"""

import argparse
import itertools
import random
import signal
import tempfile
from pathlib import Path

import torch
from run_fit import start


def main() -> None:
    """Print a line for every setting; stop with an error at the first run that ends otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, settings = random.Random(given.seed), list(itertools.product(("fp32", "bf16"), (0, 2), (1024, 0)))
    done = 0
    for number, (precision, workers, cache_mb) in enumerate(settings):
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            cache = root / "runs" / "cache"  # below the folder whose changes are heard
            environment = {"TRANSKD_CACHE": str(cache)}
            options = {"method": "transkd-base", "precision": precision, "workers": workers, "cache_mb": cache_mb}
            start(root / "runs" / "whole", root / "whole.pt", environment, **options).finish()
            whole = torch.load(root / "whole.pt", weights_only=True)
            share = given.kills * (number + 1) // len(settings) - done
            for k in range(share):
                for path in cache.rglob("*-*"):  # filled anew, so that the filling is struck as well
                    path.unlink()
                weights, folder = root / f"{k}.pt", root / "runs" / str(k)
                strike = (draw.randrange(9), draw.randrange(1, 4))
                killed = start(folder, weights, environment, strike=strike, heard=str(root / "runs"), **options)
                assert killed.end() in (-signal.SIGKILL, 0), killed.log
                start(folder, weights, environment, **options).finish()
                again = torch.load(weights, weights_only=True)
                assert again["history"] == whole["history"], (options, strike)
                assert all(torch.equal(x, again["student"][key]) for key, x in whole["student"].items()), strike
                left = [path.name for path in cache.rglob("*") if path.is_file()]
                assert len(left) == (0 if cache_mb else 1), left
                assert not any(path.startswith(".") for path in left), left
                assert not list(folder.rglob(".tmp-*"))
            done += share
            print(
                f"{precision}, {workers} loader processes, cache_mb {cache_mb}: {share} kills, equal bits", flush=True
            )


if __name__ == "__main__":
    main()
