"""Quarantine: cut a sandbox off, hold it still, keep evidence, and let it go again or end it."""
