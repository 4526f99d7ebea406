"""What a shell sees: one short file per subcommand that parses, calls and writes."""
