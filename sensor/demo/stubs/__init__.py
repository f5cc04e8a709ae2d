"""Programs of the demo's incident: each stands alone, is copied out and run by the system's python3."""
