"""How many street scenes one core draws a second, in processor time, at three sizes; each the best of five runs.

python tests/benchmarks/scenes.py [--num 40]
"""

from __future__ import annotations

import argparse
import time

from transkd_lite.data.streets import draw_scene

SIZES = ((64, 128), (128, 256), (512, 1024))


def seconds_a_scene(size: tuple[int, int], first: int, num: int) -> float:
    """Processor seconds of one scene of `size` (height, width), a mean over `num` scenes from `first` on."""
    start = time.process_time()
    for index in range(first, first + num):
        draw_scene(0, index, size=size)
    return (time.process_time() - start) / num


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=40, help="scenes a run")
    num = parser.parse_args().num
    for size in SIZES:
        best = min(seconds_a_scene(size, run * num, num) for run in range(5))
        print(f"{size[0]} x {size[1]}: {1 / best:.0f} scenes a second")


if __name__ == "__main__":
    main()
