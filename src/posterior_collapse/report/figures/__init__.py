"""Results as figures of matplotlib, each of one or several panels."""
