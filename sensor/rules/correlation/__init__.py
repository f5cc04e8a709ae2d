"""Several events as one detection: Sigma's correlation rules, evaluated on the live stream."""
