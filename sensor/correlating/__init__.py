"""Correlations between the engine and the pipeline, and what a restart leaves of them."""
