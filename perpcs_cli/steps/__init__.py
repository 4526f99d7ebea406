"""What a command does to a workspace, callable from Python: no flags, no printing."""
