"""Training LoRAs and gates, with and without differential privacy."""
