"""The real peers of the live tests: tunnels, miners and the benign set, in namespaces without a way out."""
