"""What lies on disk: one file per format, each with a typed struct and read, write and verify."""
