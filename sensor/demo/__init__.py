"""The demo: a real sensor, three sandboxes, ordinary work in one and an incident in the others."""

from sensor.demo.command import main

__all__ = ["main"]
