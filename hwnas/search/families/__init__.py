"""Families of networks compete by short trainings; the winner's family is searched."""
