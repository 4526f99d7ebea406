"""What a person's window shows: its width, its colours, tables in it, and what changes in it."""
