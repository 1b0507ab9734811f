"""What a distillation method adds to a training step when the teacher's answers are known: arithmetic and seconds.

    python tests/benchmarks/method_cost.py [--teacher segformer_b1] [--batch 8] [--size 64 128] [--threads 1]

Floating-point operations of forward and backward pass (counted by PyTorch) and the smallest time of a step over all
turns, each as a ratio to the student's step alone; every turn runs all methods, so that what else the machine does
falls on all alike. On an AMD EPYC, torch 2.15, fp32, B1 -> B0 at 8 x 64 x 128, one thread: TransKD-Base has 59% more
operations and takes 37% longer, `kd` 8.5% and 2%; B2 -> B0 at 4 x 128 x 256: 64% and 36%. The convolutions of CSF are
most of it (3 x 3, from 64 channels to the teacher's 64, 128, 320 and 512), and what they give is compared with the
teacher's map at every position, so none of it can be left out without another method.
"""

import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from transkd_lite.distill.methods import create_method
from transkd_lite.models.head import folded_heads
from transkd_lite.models.weights import create_model
from transkd_lite.training.step import TrainStep


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="segformer_b1")
    parser.add_argument("--student", default="segformer_b0")
    parser.add_argument("--methods", nargs="+", default=["kd", "review", "transkd-base", "transkd-gl", "transkd-ea"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 128))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = torch.randn(args.batch, 3, *args.size), torch.randint(0, 19, (args.batch, *args.size))
    teacher = create_model(args.teacher, 19).eval()
    with torch.no_grad():
        answers = teacher(images)
    steps, optimizers, operations = {}, {}, {}
    for name in ["none", *args.methods]:
        student = create_model(args.student, 19).train()
        method = None if name == "none" else create_method(name, student, teacher).train()
        steps[name] = TrainStep(student, method and teacher, method).train()
        trained = [p for p in steps[name].parameters() if p.requires_grad]
        optimizers[name] = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def run(name: str) -> None:
        with folded_heads(steps[name].student, teacher):
            steps[name](images, labels, None if name == "none" else answers)["total"].backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    best = dict.fromkeys(steps, float("inf"))
    for name in steps:
        with FlopCounterMode(display=False) as counter:
            run(name)
        operations[name] = counter.get_total_flops()
    for _ in range(args.turns):
        for name in steps:
            start = time.perf_counter()
            run(name)
            best[name] = min(best[name], time.perf_counter() - start)
    print("method        GFLOP  ratio      ms  ratio")
    for name, seconds in best.items():
        share, slower = operations[name] / operations["none"], seconds / best["none"]
        print(f"{name:<12}{operations[name] / 1e9:7.1f}{share:7.3f}{1000 * seconds:8.1f}{slower:7.3f}")


if __name__ == "__main__":
    main()
