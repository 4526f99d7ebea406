"""Commands of the workspace itself and the models it uses."""
