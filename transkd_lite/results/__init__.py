"""Results: tables of finished runs, statistics on them, and what a comparison says."""
