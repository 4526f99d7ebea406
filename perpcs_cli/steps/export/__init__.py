"""A recipe as other tools take it: a PEFT adapter, full weights, a GGUF file, each compared with the recipe."""
