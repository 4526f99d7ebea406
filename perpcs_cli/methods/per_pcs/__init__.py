"""Per-PCs (Tan et al., 2024): sharer selection, gate scores, assembly, and PEFT retrieval."""
