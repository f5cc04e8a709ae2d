"""The demo: a real sensor, two sandboxes, ordinary work in one and an incident in the other."""
