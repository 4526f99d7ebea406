"""Where models come from, and the base that everything runs on."""
