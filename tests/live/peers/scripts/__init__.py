"""Programs that the peers run, inside or outside: each stands alone and is run by its path."""
