"""StageWise NAS (Jordao et al. 2020): growth stage by stage."""
