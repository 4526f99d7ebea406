"""Steps that make a target user's recipe."""
