"""A trained model made to fit a budget: the exact choice among the forms of its pieces, weights kept."""
