"""What allocations are built from, ours and a plugin's alike: the budget, its knapsack, limits, and rates of layers."""
