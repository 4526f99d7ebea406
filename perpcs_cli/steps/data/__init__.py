"""Steps that bring in and describe users."""
