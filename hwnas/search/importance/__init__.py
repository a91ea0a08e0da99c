"""How much each stage, or each possible growth, matters to a trained network."""
