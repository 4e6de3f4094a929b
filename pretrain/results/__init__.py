"""What was trained, what was measured, and the tables made of it."""
