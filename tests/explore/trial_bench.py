"""The smallest real trial: four scenes of 32x64, the shipped teacher, a new student."""

from transkd_lite.experiments.experiment import Experiment

TINY = Experiment(
    method="transkd-base+kd",
    teacher="data/weights/streets128-segformer_b1.safetensors",
    train_images=4,
    height=32,
    width=64,
    batch_size=2,
    steps=4,
    augment="flip",
    precision="fp32",
    device="cpu",
)
TERMS = ("ce", "csf_1", "csf_2", "csf_3", "csf_4", "pea_1", "pea_2", "pea_3", "pea_4", "kd")
