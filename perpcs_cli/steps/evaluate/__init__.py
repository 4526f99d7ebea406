"""Steps that answer queries, and measure answers and leakage."""
