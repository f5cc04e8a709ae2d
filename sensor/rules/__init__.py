"""Sigma rules: loaded in a child, compiled to Python, evaluated in the core."""
