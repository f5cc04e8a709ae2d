"""Detectors: what no single event shows, as events of its own."""
