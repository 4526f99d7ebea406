"""What the engine is measured against: the PEFT loop and the merged-weights loop."""
