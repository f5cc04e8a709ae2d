"""Falco's rules as drafts of Sigma rules."""
