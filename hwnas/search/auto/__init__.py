"""The recommended search, composed of what the published ones do best."""
