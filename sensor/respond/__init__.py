"""What follows a detection: the policy's decision, and the signals that carry it out."""
