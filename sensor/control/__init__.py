"""The api process and both ends of what connects to it: the core's link, and the command line's client."""
