"""Which cgroups are sandboxes, and what their runtimes call them. One file a runtime."""
