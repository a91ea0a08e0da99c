"""Training of HourNAS's shared weights."""
