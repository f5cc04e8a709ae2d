"""Kernel records → activities: who did it, in which sandbox, called what."""
