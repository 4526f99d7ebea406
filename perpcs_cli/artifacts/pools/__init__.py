"""What is done to a whole pool: building, verifying, pseudonyms, revoking and looking for leaks."""
