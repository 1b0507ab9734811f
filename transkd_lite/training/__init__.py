"""Training: settings, the stream of samples, one step, the loop, checkpoints and run folders."""
