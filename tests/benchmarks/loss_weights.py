"""How long one move of a slider takes in the loss-weight explorer, from the new value to all readouts drawn anew.

    python tests/benchmarks/loss_weights.py [--moves 200] [--training]

Measured in the kernel: matrix, HTML and the widgets' own bookkeeping; the way to the browser comes on top. "CPU ms" is
processor time and hardly depends on what else the machine does. --training measures again while a trial runs.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace

import numpy as np
import torch

from transkd_lite.experiments.experiment import Experiment
from transkd_lite.explore.gradients import TrialBench, load_gradients
from transkd_lite.explore.panels import LossWeightsPanel


def measure(name: str, panel: LossWeightsPanel, moves: int) -> None:
    """Move the feature slider so many times; print the median, the slowest of 20 and the processor time."""
    walls, begun = [], time.thread_time()
    for k in range(moves):
        start = time.perf_counter()
        panel.sliders["csf_1"].value = 0.05 * (k % 60)
        walls.append(1000 * (time.perf_counter() - start))
    cpu = 1000 * (time.thread_time() - begun) / moves
    print(f"{name:<16}{np.median(walls):9.2f}{np.percentile(walls, 95):9.2f}{cpu:9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--training", action="store_true", help="measure again while a trial runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    panel = LossWeightsPanel(load_gradients())
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; ms a move")
    print(f"{'':<16}{'median':>9}{'95%':>9}{'CPU ms':>9}")
    measure("at rest", panel, args.moves)
    if args.training:
        experiment = Experiment.from_dict(load_gradients().about["experiment"])
        bench = TrialBench(replace(experiment, train_images=16))
        panel = LossWeightsPanel(load_gradients(), bench, num_steps=10_000)
        panel.train.click()
        while panel.progress.value < 1:
            time.sleep(0.1)
        measure("while training", panel, args.moves)
        panel.cancel.click()
        panel.thread.join()


if __name__ == "__main__":
    main()
