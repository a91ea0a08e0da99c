"""What strategies learn before they propose."""
