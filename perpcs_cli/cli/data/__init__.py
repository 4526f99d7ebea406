"""Commands that bring in users, show prompts, and describe users."""
