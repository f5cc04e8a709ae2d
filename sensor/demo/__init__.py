"""The demo: a real sensor, two sandboxes, ordinary work in one and an incident in the other."""

from sensor.demo.command import main

__all__ = ["main"]
