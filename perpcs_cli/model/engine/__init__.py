"""Running many recipes in one batch: the LoRA layer, packed passes, decoding and scoring."""
