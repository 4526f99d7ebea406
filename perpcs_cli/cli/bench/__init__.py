"""`perpcs bench`: the engine measured on this machine."""
