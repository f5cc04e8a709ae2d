"""What a quarantined sandbox was, kept in one archive: read by a child that can be killed."""
