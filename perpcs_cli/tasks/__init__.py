"""What the benchmark is: fields, prompts, labels, metrics and the retrieval of history."""
