"""What runs tasks elsewhere: `hwnas.protocols.Executor`, one file each."""
