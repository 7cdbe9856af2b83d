"""What models are shown and how their replies are read. Standard library only."""
