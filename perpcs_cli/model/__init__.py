"""What runs on the device: the base model, the pieces layer, batching, training and decoding."""
