"""The chains of Efficient Global NAS."""
