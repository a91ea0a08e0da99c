"""HourNAS (arXiv 2005.14446): vital blocks first, then the others."""
