"""What a sweep would need: tokens, operations, memory, time and disk."""
