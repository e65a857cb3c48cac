"""What is trained: fusion operators, routers, hosts, and how a variant joins them into one model."""
