"""The NASNet cells that StageWise NAS grows."""
