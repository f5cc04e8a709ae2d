"""The sensor's own safety: what it put into the kernel verified and repaired, and who reaches for it."""
