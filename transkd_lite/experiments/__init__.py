"""Experiments: one run as a record, a profile as a plan, notebooks through papermill, and batches of them."""
