"""The benchmark: many methods over seeds on one data set, and what is said about them."""
