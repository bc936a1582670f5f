"""How far the theory can be trusted on real networks: the rows X3a to X3e, and what they come to.

data        single cells and drawn clusters, beside what the paper trains on
rows        which networks train on what, around and below the predicted onset
onset, units, pays, failures    what was measured beside what was predicted, row by row
summary     the errors of all rows in one table, which the README shows
"""
