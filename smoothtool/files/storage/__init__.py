"""What lies on the disk: whole or absent, and never two writers at once."""
