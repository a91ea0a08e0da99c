"""What a user means by a network, a run or a table."""
