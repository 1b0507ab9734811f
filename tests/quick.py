"""A profile of fixture notebooks that takes seconds: what the tests of profiles, batch and command line start from."""

from pathlib import Path

FIXTURES = Path(__file__).parent / "notebooks" / "fixtures"
PARAMETERS = {"height": 32, "width": 64, "train_images": 4, "val_images": 2, "steps": 1, "batch_size": 2}
PROFILE = {
    "name": "quick",
    "about": "fixture",
    "notebooks": str(FIXTURES),
    "lessons": ["lesson"],
    "parameters": PARAMETERS,
    "teacher": {"network": "segformer_b1", "notebook": "quick_run"},
    "students": {"methods": ["none", "kd"], "seeds": [0, 1], "notebook": "quick_run"},
    "report": "report",
}


def fork_kernels(patch):
    """Fork kernels where `warm_kernels.py` runs the tests: what they compute is tested then, not their start."""
    from jupyter_client.kernelspec import KernelSpecManager

    argv = KernelSpecManager().get_kernel_spec("python3").argv
    if any(Path(part).name == "warm_kernels.py" for part in argv):
        warm = {"argv": argv, "display_name": "Python 3", "language": "python"}
        patch.setattr("ipykernel.kernelspec.get_kernel_dict", lambda: warm)
