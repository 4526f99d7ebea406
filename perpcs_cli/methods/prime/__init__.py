"""PriME: the search over the weights of similar sharers' LoRAs."""
