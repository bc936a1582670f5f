"""The rows of the paper as data, and what turns their runs into tables and figures."""
