"""pinfold: an eBPF host sensor for AI-agent sandboxes."""

__version__ = "0.1.0"
