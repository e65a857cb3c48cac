"""The benchmark: many methods over seeds on one data set, and the report on them."""
