"""Devices of other machines: the agent that is pushed over ssh, and what stands for its engines here."""
