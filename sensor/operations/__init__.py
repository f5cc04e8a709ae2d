"""What an operator can ask of the core and have it do, through the control socket."""
