"""Vital blocks and places, as HourNAS sees a space."""
