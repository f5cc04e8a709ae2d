"""What the sensor read, kept in a file, and run again."""
