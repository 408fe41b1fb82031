"""What touches files, processes and threads."""
