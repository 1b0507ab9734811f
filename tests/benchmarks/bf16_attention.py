"""Training in bf16 on a CPU: the fused attention of PyTorch against plain products, alone and within a step.

    python tests/benchmarks/bf16_attention.py [--model segformer_b0] [--batch 4] [--size 128 256] [--turns 6]

Milliseconds of processor time of one thread, the smallest of all turns; every turn runs all cases, so that what else
the machine does falls on all alike. On an AMD EPYC with AVX-512 bf16, torch 2.13, SegFormer-B0 at 8 x 64 x 128: the
step takes 135 ms in fp32, 143 ms in bf16 with the fused kernel and 114 ms with plain products; at 4 x 128 x 256 it
takes 241, 215 and 192 ms; that of B2 1,136, 783 and 751 ms. In fp32 the fused kernel is faster (135 against 150 ms).
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from transkd_lite.models.head import folded_heads
from transkd_lite.models.weights import create_model

KERNELS = {"fused": SDPBackend.FLASH_ATTENTION, "plain": SDPBackend.MATH}


def gradient_of_attention(tokens: int, keys: int, dtype: torch.dtype, kernel: str) -> Callable[[], object]:
    """Forward and backward of one attention of four images, one head of 32 channels."""
    q, k, v = (torch.randn(4, 1, n, 32, dtype=dtype, requires_grad=True) for n in (tokens, keys, keys))

    def run() -> None:
        with sdpa_kernel(KERNELS[kernel]):
            F.scaled_dot_product_attention(q, k, v).sum().backward()

    return run


def gradient_of_network(name: str, images: Tensor, dtype: torch.dtype, kernel: str) -> Callable[[], object]:
    """Forward and backward of a network, as a training step takes them."""
    model = create_model(name, 19).train()

    def run() -> None:
        with folded_heads(model), sdpa_kernel(KERNELS[kernel]):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = model(images).logits.float().square().mean()
            loss.backward()

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="segformer_b0")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256))
    parser.add_argument("--turns", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(args.batch, 3, *args.size)
    tokens = args.size[0] * args.size[1] // 16
    cases: dict[tuple[str, str, str], Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for kernel in KERNELS:
            name = str(dtype).removeprefix("torch.")
            cases["attention", name, kernel] = gradient_of_attention(tokens, tokens // 64, dtype, kernel)
            cases[args.model, name, kernel] = gradient_of_network(args.model, images, dtype, kernel)
    best = dict.fromkeys(cases, float("inf"))
    for turn in range(args.turns + 1):
        for case, run in cases.items():
            start = time.process_time()
            run()
            if turn:  # the first turn warms up
                best[case] = min(best[case], time.process_time() - start)
    for case, seconds in sorted(best.items()):
        print(f"{'  '.join(f'{part:<12}' for part in case)}{1000 * seconds:9.1f} ms")


if __name__ == "__main__":
    main()
