"""perpcs: personalize language models by sharing and recombining LoRA pieces."""

__version__ = "0.1.0"
