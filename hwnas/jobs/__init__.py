"""One file per verb: each composes the rooms into what a command or a caller asks for."""
